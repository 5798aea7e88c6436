/** Client of a service that compares codes of devices: requests carry codes and signatures, never pictures. */

import { fromBase64Url, toBase64Url, type Bytes } from "./bytes.js";
import type { Code } from "./codes.js";
import type { Device } from "./device.js";
import { ServiceError } from "./errors.js";
import type { Chip, Picture } from "./images.js";
import type { TransformKey } from "./keys.js";
import { signedMessage, subjectName, type Action } from "./protocol.js";

/** The part of a `Hasher` that a client needs. */
export interface CodeMaker {
  readonly fingerprint: string;
  hash(source: Picture | Chip | Float32Array, key: TransformKey): Promise<Code>;
}

/** Whose face, on which device, and what shows it. */
export interface Probe {
  device: Device;
  hasher: CodeMaker;
  subject: string;
  source: Picture | Chip | Float32Array;
}

export interface Enrolment {
  subject: string;
  slots: number[];
}

export interface Decision {
  match: boolean;
  distance?: number;
  threshold?: number;
}

export interface ClientOptions {
  application: string;
  /** In place of the browser's own. */
  fetch?: typeof fetch;
}

type Body = Record<string, unknown>;
const NONCE_BYTES = 32;

/** One application of a service, such as `https://example.org`, with a token where it asks for one. */
export class OnDeviceClient {
  readonly application: string;
  readonly #base: string;
  readonly #token: string | undefined;
  readonly #fetch: typeof fetch;

  constructor(baseUrl: string | URL, token: string | undefined, options: ClientOptions) {
    this.#base = String(baseUrl).replace(/\/+$/, "");
    this.#token = token || undefined;
    this.application = options.application;
    this.#fetch = options.fetch ?? ((...request) => fetch(...request));
  }

  /** Enrol a subject with this device. `returning` brings a revoked one back, with the token of an admin. */
  async enroll(probe: Probe, { returning = false } = {}): Promise<Enrolment> {
    const { device, subject } = probe;
    const { application } = this;
    const records = device.records;
    const record = returning
      ? await records.next(application, subject)
      : (await records.get(application, subject)).current;
    const key = await device.key({ application, subject, record });
    const body = await this.#signed("enroll", probe, key, { spki: await device.publicKey() });
    const enrolment = (await this.#post(
      "enroll-code",
      returning ? { ...body, returning } : body,
    )) as unknown as Enrolment;
    await records.set(application, subject, record);
    return enrolment;
  }

  /** Compare a face with the enrolled code. */
  async verify(probe: Probe): Promise<Decision> {
    const { device, subject } = probe;
    const { current, tried } = await device.records.get(this.application, subject);
    try {
      return await this.#verify(probe, current);
    } catch (error) {
      const isOld = error instanceof ServiceError && error.status === 410 && tried > current;
      if (!isOld) throw error;
    }
    const decision = await this.#verify(probe, tried); // a renewal whose answer was lost
    await device.records.set(this.application, subject, tried);
    return decision;
  }

  /**
   * Enrol the face under a new key; the old key's codes are refused from then on.
   *
   * The enrolled device signs; `newDevice`, which signs too, takes its place, and the new key is its own.
   */
  async renew(probe: Probe, { newDevice }: { newDevice?: Device } = {}): Promise<Enrolment> {
    const { subject } = probe;
    const { application } = this;
    const holder = newDevice ?? probe.device;
    const record = await holder.records.next(application, subject);
    const key = await holder.key({ application, subject, record });
    const named = newDevice && { spki: await newDevice.publicKey(), newDevice };
    const enrolment = (await this.#post(
      "renew-code",
      await this.#signed("renew", probe, key, named),
    )) as unknown as Enrolment;
    await holder.records.set(application, subject, record);
    return enrolment;
  }

  /** End the enrolment of a subject. */
  async revoke({ device, subject }: Pick<Probe, "device" | "subject">): Promise<void> {
    const { nonce } = await this.nonce();
    const name = subjectName(subject);
    const message = signedMessage({ action: "revoke", application: this.application, subject: name, nonce });
    const signature = toBase64Url(await device.sign(message));
    await this.#post("revoke-code", { subject: name, nonce: toBase64Url(nonce), signature });
  }

  /** A fresh nonce of the service, and for how many seconds it is good. */
  async nonce(): Promise<{ nonce: Bytes; seconds: number }> {
    const answer = await this.#post("nonce", {});
    const nonce = fromBase64Url(String(answer.nonce));
    if (nonce === undefined || nonce.length !== NONCE_BYTES) {
      throw new ServiceError(`nonce: expected ${NONCE_BYTES} bytes from the service, received something else`, 0);
    }
    return { nonce, seconds: Number(answer.seconds) };
  }

  async #verify(probe: Probe, record: number): Promise<Decision> {
    const key = await probe.device.key({ application: this.application, subject: probe.subject, record });
    return (await this.#post("verify-code", await this.#signed("verify", probe, key))) as unknown as Decision;
  }

  /** A request with the code of a probe under a key, signed by its device; `spki` where a device is named. */
  async #signed(
    action: Action,
    probe: Probe,
    key: TransformKey,
    { spki, newDevice }: { spki?: Bytes; newDevice?: Device } = {},
  ): Promise<Body> {
    const fields = {
      subject: subjectName(probe.subject),
      hasher: probe.hasher.fingerprint,
      key: await key.identifier(),
      code: (await probe.hasher.hash(probe.source, key)).toBytes(),
      ...(spki && { device: spki }),
      nonce: (await this.nonce()).nonce, // last: it is good for a minute
    };
    const message = signedMessage({ action, application: this.application, ...fields });
    const signature = await probe.device.sign(message);
    const signed = { ...fields, signature, ...(newDevice && { device_signature: await newDevice.sign(message) }) };
    const texts = Object.entries(signed).map(([name, value]) => [
      name,
      typeof value === "string" ? value : toBase64Url(value),
    ]);
    return Object.fromEntries(texts) as Body;
  }

  async #post(action: string, body: Body): Promise<Body> {
    const url = `${this.#base}/v1/${encodeURIComponent(this.application)}/${action}`;
    const headers: Record<string, string> = { "Content-Type": "application/json" };
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    const request: RequestInit = {
      method: "POST",
      headers,
      body: JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
    };
    let response: Response;
    try {
      response = await this.#fetch(url, request);
    } catch (error) {
      throw new ServiceError(`${action}: the service cannot be reached; try again`, 0, { cause: error });
    }
    const answer = await readJson(response);
    if (!response.ok) {
      const told = answer?.detail;
      const reason = typeof told === "string" ? told.slice(0, 500) : "the service gave no reason";
      throw new ServiceError(`${action}: ${reason}`, response.status);
    }
    if (answer === undefined)
      throw new ServiceError(`${action}: expected JSON, received something else`, response.status);
    return answer;
  }
}

async function readJson(response: Response): Promise<Body | undefined> {
  try {
    const found: unknown = await response.json();
    return typeof found === "object" && found !== null && !Array.isArray(found) ? (found as Body) : undefined;
  } catch {
    return undefined;
  }
}
