/** Client of a service that compares codes of devices: requests carry codes and signatures, never pictures. */

import { fromBase64Url, toBase64Url, type Bytes } from "./bytes.js";
import { splitCode, type Code } from "./codes.js";
import type { Device } from "./device.js";
import { ServiceError } from "./errors.js";
import type { Chip, Picture } from "./images.js";
import type { TransformKey } from "./keys.js";
import { onSide, signedMessage, subjectName, type Action, type Side } from "./protocol.js";

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
  /**
   * The service with the other shares, where the service gives its address as `other` in `/health/ready`.
   *
   * Each code then goes in two shares to the two services, neither of which has a code.
   */
  other?: { url: string | URL; token?: string };
  /** In place of the browser's own. */
  fetch?: typeof fetch;
}

type Body = Record<string, unknown>;

/** A service, and the token for it. */
interface Server {
  base: string;
  token: string | undefined;
}

type Placing = "enroll" | "renew";

const NONCE_BYTES = 32;

/** One application of a service, such as `https://example.org`, with a token where it asks for one. */
export class OnDeviceClient {
  readonly application: string;
  /** The service that decides, and where codes go in shares the other one. */
  readonly #servers: [Server, ...Server[]];
  readonly #fetch: typeof fetch;

  constructor(baseUrl: string | URL, token: string | undefined, options: ClientOptions) {
    this.#servers = [serverOf(baseUrl, token)];
    if (options.other) this.#servers.push(serverOf(options.other.url, options.other.token));
    this.application = options.application;
    this.#fetch = options.fetch ?? ((...request) => fetch(...request));
  }

  /** Enrol a subject with this device. `returning` brings a revoked one back, with the token of an admin. */
  async enroll(probe: Probe, { returning = false } = {}): Promise<Enrolment> {
    const { device, subject } = probe;
    const { application } = this;
    const records = device.records;
    const isFresh = returning || this.#isSplit; // of two services one may have an enrolment that the other never got
    const record = isFresh
      ? await records.next(application, subject)
      : (await records.get(application, subject)).current;
    const key = await device.key({ application, subject, record });
    const enrolment = await this.#place("enroll", probe, key, { returning });
    await records.set(application, subject, record);
    return enrolment;
  }

  /** Compare a face with the enrolled code. */
  async verify(probe: Probe): Promise<Decision> {
    const { device, subject } = probe;
    const { current, tried } = await device.records.get(this.application, subject);
    // Newer ones are of requests whose answers were lost, or that were never sent: any of them may be the enrolled one.
    const newer = Array.from({ length: tried - current }, (_, i) => tried - i);
    let refusal: unknown;
    for (const record of [current, ...newer]) {
      try {
        const decision = await this.#verify(probe, record);
        if (record !== current) await device.records.set(this.application, subject, record);
        return decision;
      } catch (error) {
        const isOther = error instanceof ServiceError && (error.status === 410 || error.status === 409);
        if (!isOther) throw error;
        refusal ??= error;
      }
    }
    throw refusal;
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
    const enrolment = await this.#place("renew", probe, key, newDevice && { newDevice });
    await holder.records.set(application, subject, record);
    return enrolment;
  }

  /** End the enrolment of a subject. */
  async revoke({ device, subject }: Pick<Probe, "device" | "subject">): Promise<void> {
    const name = subjectName(subject);
    const failed: unknown[] = [];
    for (const server of this.#servers) {
      try {
        const { nonce } = await this.nonce(server);
        const action = onSide("revoke", this.#sideOf(server));
        const message = signedMessage({ action, application: this.application, subject: name, nonce });
        const signature = toBase64Url(await device.sign(message));
        await this.#post("revoke-code", { subject: name, nonce: toBase64Url(nonce), signature }, server);
      } catch (error) {
        failed.push(error);
      }
    }
    if (failed.length) throw failed[0]; // of two services each was asked: one alone refuses the subject
  }

  /** A fresh nonce of the service, and for how many seconds it is good. */
  async nonce(server: Server = this.#servers[0]): Promise<{ nonce: Bytes; seconds: number }> {
    const answer = await this.#post("nonce", {}, server);
    const nonce = fromBase64Url(String(answer.nonce));
    if (nonce === undefined || nonce.length !== NONCE_BYTES) {
      throw new ServiceError(`nonce: expected ${NONCE_BYTES} bytes from the service, received something else`, 0);
    }
    return { nonce, seconds: Number(answer.seconds) };
  }

  async #verify(probe: Probe, record: number): Promise<Decision> {
    const key = await probe.device.key({ application: this.application, subject: probe.subject, record });
    const [share, theirs] = await this.#shares(probe, key);
    const [decides, other] = this.#servers;
    if (!other)
      return (await this.#post("verify-code", await this.#signed("verify", probe, key, share))) as unknown as Decision;
    const { nonce } = await this.nonce();
    const asked = { ...(await this.#signed("verify", probe, key, theirs, other)), other_nonce: toBase64Url(nonce) };
    const { difference } = await this.#post("verify-share", asked, other); // sealed: of use to the other service alone
    const body = await this.#signed("verify", probe, key, share, decides, { nonce });
    return (await this.#post("verify-code", { ...body, other: difference })) as unknown as Decision;
  }

  get #isSplit(): boolean {
    return this.#servers.length > 1;
  }

  #sideOf(server: Server): Side {
    return this.#isSplit ? (server === this.#servers[0] ? "a" : "b") : "";
  }

  /** The code of a probe under a key, in as many shares as there are services. */
  async #shares(probe: Probe, key: TransformKey): Promise<Bytes[]> {
    const code = await probe.hasher.hash(probe.source, key);
    return this.#isSplit ? splitCode(code) : [code.toBytes()];
  }

  /**
   * Enrol or renew at each service.
   *
   * Of two, one alone may have what the other one lacks, after a request that only one of them got: there, an enrolment
   * is made as a renewal, or a renewal as an enrolment. A refusal by both is a refusal.
   */
  async #place(
    action: Placing,
    probe: Probe,
    key: TransformKey,
    { newDevice, returning }: { newDevice?: Device | undefined; returning?: boolean } = {},
  ): Promise<Enrolment> {
    const shares = await this.#shares(probe, key);
    const send = async (name: Placing, place: number): Promise<Body> => {
      const server = this.#servers[place];
      const named = newDevice ?? (name === "enroll" ? probe.device : undefined);
      const signers = { ...(named && { spki: await named.publicKey() }), ...(newDevice && { newDevice }) };
      const body = await this.#signed(name, probe, key, shares[place], server, signers);
      return this.#post(`${name}-code`, name === "enroll" && returning ? { ...body, returning } : body, server);
    };
    const answers: Body[] = [];
    const uneven = new Map<number, ServiceError>();
    for (const place of this.#servers.keys()) {
      try {
        answers[place] = await send(action, place);
      } catch (error) {
        const isUneven = error instanceof ServiceError && error.status === (action === "enroll" ? 409 : 404);
        if (newDevice || !isUneven) throw error;
        uneven.set(place, error);
      }
    }
    for (const [place, error] of uneven) {
      if (uneven.size === this.#servers.length) throw error;
      answers[place] = await send(action === "enroll" ? "renew" : "enroll", place);
    }
    return answers[0] as unknown as Enrolment;
  }

  /** A request with a code, or a share of it, under a key, signed by its device; `spki` where a device is named. */
  async #signed(
    action: Action,
    probe: Probe,
    key: TransformKey,
    code: Bytes,
    server: Server = this.#servers[0],
    { spki, newDevice, nonce }: { spki?: Bytes; newDevice?: Device; nonce?: Bytes } = {},
  ): Promise<Body> {
    const fields = {
      subject: subjectName(probe.subject),
      hasher: probe.hasher.fingerprint,
      key: await key.identifier(),
      code,
      ...(spki && { device: spki }),
      nonce: nonce ?? (await this.nonce(server)).nonce, // last: it is good for a minute
    };
    const asked = onSide(action, this.#sideOf(server));
    const message = signedMessage({ action: asked, application: this.application, ...fields });
    const signature = await probe.device.sign(message);
    const signed = { ...fields, signature, ...(newDevice && { device_signature: await newDevice.sign(message) }) };
    const texts = Object.entries(signed).map(([name, value]) => [
      name,
      typeof value === "string" ? value : toBase64Url(value),
    ]);
    return Object.fromEntries(texts) as Body;
  }

  async #post(action: string, body: Body, { base, token }: Server = this.#servers[0]): Promise<Body> {
    const url = `${base}/v1/${encodeURIComponent(this.application)}/${action}`;
    const headers: Record<string, string> = { "Content-Type": "application/json" };
    if (token) headers.Authorization = `Bearer ${token}`;
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

function serverOf(url: string | URL, token: string | undefined): Server {
  return { base: String(url).replace(/\/+$/, ""), token: token || undefined };
}

async function readJson(response: Response): Promise<Body | undefined> {
  try {
    const found: unknown = await response.json();
    return typeof found === "object" && found !== null && !Array.isArray(found) ? (found as Body) : undefined;
  } catch {
    return undefined;
  }
}
