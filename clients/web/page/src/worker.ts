/** Worker of the page: it computes and has the keys, so that the page stays responsive and knows no secret. */

import decodeQR from "qr/decode.js";
import {
  Device, Hasher, IomError, KeyMaterialError, OnDeviceClient, ServiceError,
  type Chip, type Code, type CodeMaker, type Decision,
} from "../../src/index.js";
import { NETWORKS_CACHE } from "./cache_names.js";
import type { Call, Calls, Outcome, Reply, Request as PageRequest, SentRequest, Wish } from "./messages.js";

/** Folder of onnxruntime-web's files. */
declare const RUNTIME: string;

const DATABASE = "iom-device";

let hasher: Hasher | undefined;
let device: Promise<Device> | undefined;
let embedding: Float32Array | undefined;

type Handlers = { [Name in Call]: (argument: Calls[Name]["argument"]) => Promise<Calls[Name]["result"]> };

const handlers: Handlers = {
  async load({ manifest }) {
    try {
      hasher = await Hasher.load(new URL(manifest, location.origin), {
        wasmPaths: new URL(RUNTIME, location.origin),
        onProgress: (loaded, total) => tell({ progress: { loaded, total } }),
      });
    } catch (error) {
      await caches.delete(NETWORKS_CACHE); // a damaged file would be there at the next start, too
      throw error;
    }
    return null;
  },

  async look({ picture }) {
    embedding = undefined;
    const networks = ready();
    const { chip, face } = await networks.oneFace(picture).finally(() => picture.close());
    embedding = await networks.embed(chip);
    return { pixels: withAlpha(chip), size: chip.size, points: face?.points ?? [] };
  },

  async act(wish) {
    const { application, token, other } = wish;
    const sent: SentRequest[] = [];
    const made: { code?: Code } = {};
    const noted: typeof fetch = (address, options) => {
      sent.push(described(String(address), options?.body));
      return fetch(address, options);
    };
    const client = new OnDeviceClient(location.origin, token, { application, fetch: noted, ...(other && { other }) });
    const maker: CodeMaker = {
      get fingerprint() {
        return ready().fingerprint; // not asked for by a revocation, which needs no networks
      },
      hash: async (source, key) => (made.code = await ready().hash(source, key)),
    };
    const end = await ended(client, maker, wish);
    const { code } = made;
    return { ...end, sent, ...(code && { code: { symbols: code.symbols, alphabetSize: code.alphabetSize } }) };
  },

  async signer() {
    const known = device !== undefined || (await indexedDB.databases()).some(({ name }) => name === DATABASE);
    if (!known) return null;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await (await opened()).publicKey()));
    return Array.from(digest.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
  },

  async exportKey() {
    const own = await opened();
    return { text: await own.exportText(), qr: await own.exportQr() };
  },

  async importKey({ text }) {
    await (await opened()).importText(text);
    return null;
  },

  async readQr({ picture }) {
    const context = new OffscreenCanvas(picture.width, picture.height).getContext("2d")!;
    context.drawImage(picture, 0, 0);
    const pixels = context.getImageData(0, 0, picture.width, picture.height);
    picture.close();
    try {
      return decodeQR(pixels, { effort: Infinity, timeLimit: 5000 });
    } catch {
      throw new KeyMaterialError("expected a picture of a QR code, found none in it; take one that is near and sharp");
    }
  },

  async deleteKey() {
    await (await opened()).delete();
    device = undefined;
    return null;
  },
};

/** One action, from its code to the answer; a refusal is an outcome, too. */
async function ended(client: OnDeviceClient, maker: CodeMaker, wish: Wish): Promise<Omit<Outcome, "sent">> {
  const { action, subject, returning } = wish;
  try {
    const own = await opened();
    if (action === "revoke") {
      await client.revoke({ device: own, subject });
      return { status: 200, detail: "" };
    }
    if (!embedding) throw new IomError("expected a face, received none yet; choose a picture");
    const probe = { device: own, hasher: maker, subject, source: embedding };
    const answer = await (action === "enroll" ? client.enroll(probe, { returning }) : client[action](probe));
    return { status: 200, detail: "", ...(action === "verify" && (answer as Decision)) };
  } catch (error) {
    if (error instanceof ServiceError) return { status: error.status, detail: error.message };
    throw error;
  }
}

function ready(): Hasher {
  if (!hasher) throw new IomError("the networks are not loaded; reload the page while the service can be reached");
  return hasher;
}

function opened(): Promise<Device> {
  device ??= Device.open(DATABASE);
  return device;
}

/** Lengths of a request and its fields. */
function described(address: string, body: unknown): SentRequest {
  if (typeof body !== "string") throw new TypeError("expected a request of JSON text, received another");
  const length = (text: string): number => new TextEncoder().encode(text).length;
  const fields = Object.entries(JSON.parse(body) as Record<string, unknown>).map(([name, value]) => ({
    name,
    bytes: length(typeof value === "string" ? value : JSON.stringify(value)),
  }));
  const { host, pathname } = new URL(address);
  return { service: host, name: pathname.split("/").at(-1) ?? "", bytes: length(body), fields };
}

function withAlpha({ pixels, size }: Chip): Uint8ClampedArray<ArrayBuffer> {
  const all = new Uint8ClampedArray(4 * size * size).fill(255);
  for (let i = 0; i < size * size; i++) all.set(pixels.subarray(3 * i, 3 * i + 3), 4 * i);
  return all;
}

function tell(reply: Reply): void {
  postMessage(reply);
}

async function answer<Name extends Call>({ id, call, argument }: PageRequest<Name>): Promise<void> {
  try {
    tell({ id, result: await handlers[call](argument) });
  } catch (error) {
    tell({ id, error: error instanceof Error ? error.message : String(error) });
  }
}

addEventListener("message", (event: MessageEvent<PageRequest>) => void answer(event.data));
