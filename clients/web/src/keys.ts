/** Transform keys: the secret that makes a template renewable; the same bits as `iom.keys` in Python. */

import { shake256 } from "@noble/hashes/sha3.js";
import {
  concat,
  copyOf,
  equalBytes,
  fromBase64Url,
  sha256,
  toBase64Url,
  toHex,
  uint32,
  utf8,
  type Bytes,
} from "./bytes.js";
import { KeyMaterialError } from "./errors.js";

const SECRET_BYTES = 32;
const TEXT_VERSION = 1;
/** Signed orders of an `orthogonal` key; a Hadamard transform stands between each two. */
export const ROTATION_ROUNDS = 3;

/** Which record a key is derived for. */
export interface RecordLabel {
  application: string;
  subject: string;
  /** Not negative; 0 where left out. */
  record?: number;
}

/** What a key does to the dimensions that it is applied to. */
export type KeyKind = "permutation" | "subset" | "orthogonal" | "part";

/** Versioned name of the way from secret to order, by kind. */
export const DERIVATIONS: Readonly<Record<KeyKind, string>> = {
  permutation: "iom/permutation/v1",
  subset: "iom/subset/v1",
  orthogonal: "iom/orthogonal/v1",
  part: "iom/part/v1",
};

/**
 * Auxiliary data of one template: 32 secret bytes, from which everything keyed is derived.
 *
 * The secret is in a private field: it shows in no log, in no JSON and in no structured clone.
 */
export class TransformKey {
  readonly #secret: Bytes;

  private constructor(secret: Bytes) {
    this.#secret = secret;
  }

  /** A fresh key from the generator of the browser. */
  static async generate(): Promise<TransformKey> {
    return new TransformKey(crypto.getRandomValues(new Uint8Array(SECRET_BYTES)));
  }

  /** The key of 32 bytes; a `KeyMaterialError` for anything else. */
  static async fromBytes(secret: Uint8Array): Promise<TransformKey> {
    if (!(secret instanceof Uint8Array) || secret.length !== SECRET_BYTES) {
      const received = secret instanceof Uint8Array ? `${secret.length}` : typeof secret;
      throw new KeyMaterialError(
        `a transform key needs ${SECRET_BYTES} bytes, received ${received}; make one with TransformKey.generate()`,
      );
    }
    return new TransformKey(copyOf(secret));
  }

  /** Read what `toText` wrote; white space around it is ignored. Errors hold no part of the text. */
  static async fromText(text: string): Promise<TransformKey> {
    const expected = `not a stored key: expected a text 'iom-key-${TEXT_VERSION}:...'`;
    if (typeof text !== "string") throw new KeyMaterialError(expected);
    const match = /^iom-key-([0-9]{1,9}):(.*)$/s.exec(text.trim());
    if (match === null) throw new KeyMaterialError(expected);
    if (Number(match[1]) !== TEXT_VERSION) {
      throw new KeyMaterialError(
        `a stored key of version ${Number(match[1])}: this program reads version ${TEXT_VERSION}; ` +
          "read it with the program that wrote it",
      );
    }
    const cut = match[2].indexOf(":");
    const body = cut < 0 ? match[2] : match[2].slice(0, cut);
    const check = cut < 0 ? "" : match[2].slice(cut + 1);
    const secret = fromBase64Url(body);
    const held = secret !== undefined && secret.length === SECRET_BYTES && (await textCheck(secret));
    if (!secret || !held || !equalBytes(lettersOf(check), utf8(held))) {
      throw new KeyMaterialError(
        "a stored key is truncated or damaged: its check does not hold; take it from a backup",
      );
    }
    return new TransformKey(secret);
  }

  /** The secret as text to be stored, `iom-key-1:<secret>:<check>`. This text *is* the secret: never log it. */
  async toText(): Promise<string> {
    return `iom-key-${TEXT_VERSION}:${toBase64Url(this.#secret)}:${await textCheck(this.#secret)}`;
  }

  /** A copy of the 32 secret bytes. */
  async toBytes(): Promise<Bytes> {
    return copyOf(this.#secret);
  }

  /** Public name of the key, 32 hexadecimal digits; it tells nothing of the secret. */
  async identifier(): Promise<string> {
    return toHex(await hmacSha256(this.#secret, utf8("iom/key/identifier/v1"))).slice(0, 32);
  }

  /** Key of one record, from this key as the master; labels are length-prefixed (HKDF-Expand of RFC 5869). */
  async derive(label: RecordLabel): Promise<TransformKey> {
    return new TransformKey(await hmacSha256(this.#secret, derivationLabel(label)));
  }

  /** Whether two keys are of one secret, compared in constant time. */
  async equals(other: TransformKey): Promise<boolean> {
    return equalBytes(this.#secret, other.#secret);
  }

  /**
   * The order `(rounds size,)` that a network takes for a key of this kind, on `size` dimensions.
   *
   * `keep` dimensions are kept behind the key; 0 keeps all. An entry i < 0 of an `orthogonal` key takes dimension
   * -i - 1 negated.
   */
  async order(kind: KeyKind, size: number, keep = 0): Promise<Int32Array> {
    if (!Number.isInteger(size) || size < 1 || !Number.isInteger(keep) || keep < 0 || keep > size) {
      throw new KeyMaterialError(
        `an order needs at least one dimension and keeps at most all, received size ${size} and keep ${keep}`,
      );
    }
    switch (kind) {
      case "permutation":
        return this.#permutation(size);
      case "orthogonal":
        return this.#signedOrders(size);
      case "subset": {
        const order = this.#permutation(size);
        order.subarray(0, keep).sort();
        order.subarray(keep).sort();
        return order;
      }
      case "part": {
        const order = this.#permutation(size);
        const [start, stop] = partWindow(this.#partOf(partCount(size, keep)), size, keep);
        const inside = (place: number): boolean => place >= start && place < stop;
        return Int32Array.from([...order.filter(inside), ...order.filter((place) => !inside(place))]);
      }
      default:
        throw new KeyMaterialError(
          `kind of key: expected ${Object.keys(DERIVATIONS).join(", ")}, received ${String(kind).slice(0, 100)}`,
        );
    }
  }

  /** The part of the embedding, 0 to parts - 1, that a key of kind `part` uses. */
  async part(parts: number): Promise<number> {
    return this.#partOf(parts);
  }

  /** Nothing: a key in JSON is empty. */
  toJSON(): Record<string, never> {
    return {};
  }

  #permutation(size: number): Int32Array {
    const stream = shake256(concat(utf8("iom/permutation/v1"), this.#secret), { dkLen: 8 * size });
    return sorted(stream, 0, size, 0n);
  }

  #stream(purpose: string, size: number): Uint8Array {
    return shake256(concat(utf8(`iom/stream/${purpose}/v1\0`), this.#secret), { dkLen: size });
  }

  #signedOrders(size: number): Int32Array {
    const stream = this.#stream("orthogonal", 8 * ROTATION_ROUNDS * size);
    const orders = new Int32Array(ROTATION_ROUNDS * size);
    for (let round = 0; round < ROTATION_ROUNDS; round++) {
      const order = sorted(stream, round * size, size, 1n);
      for (let i = 0; i < size; i++) {
        const isNegated = (stream[8 * (round * size + order[i])] & 1) === 1;
        orders[round * size + i] = isNegated ? -order[i] - 1 : order[i];
      }
    }
    return orders;
  }

  #partOf(parts: number): number {
    const word = new DataView(this.#stream("part", 8).slice().buffer).getBigUint64(0, true);
    return Number(word % BigInt(parts));
  }
}

/** How many parts of `keep` dimensions there are: as many as fit apart, and at least two; one where all are kept. */
export function partCount(size: number, keep: number): number {
  return keep <= 0 || keep >= size ? 1 : Math.max(2, Math.floor(size / keep));
}

/** First dimension of one of the parts, and the one behind its last. */
function partWindow(part: number, size: number, keep: number): [number, number] {
  const start = Math.floor((part * (size - keep)) / Math.max(partCount(size, keep) - 1, 1));
  return [start, start + keep];
}

/** Stable order of `size` 64-bit little-endian words from word `start` on, without their `dropped` lowest bits. */
function sorted(stream: Uint8Array, start: number, size: number, dropped: bigint): Int32Array {
  const view = new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
  const words = Array.from({ length: size }, (_, i) => view.getBigUint64(8 * (start + i), true) >> dropped);
  const places = Array.from({ length: size }, (_, i) => i);
  places.sort((a, b) => (words[a] < words[b] ? -1 : words[a] > words[b] ? 1 : a - b));
  return Int32Array.from(places);
}

/** The message whose HMAC-SHA-256 under a master is the key of a record. */
function derivationLabel({ application, subject, record = 0 }: RecordLabel): Bytes {
  if (!Number.isSafeInteger(record) || record < 0) {
    throw new KeyMaterialError(`record must be a whole number that is not negative, received ${record}`);
  }
  const parts = [application, subject, String(record)].map((label) => {
    try {
      const encoded = utf8(label);
      return concat(uint32(encoded.length), encoded);
    } catch (error) {
      throw new KeyMaterialError(`application and subject of a key: ${(error as Error).message}`);
    }
  });
  return concat(utf8("iom/derive/v1"), ...parts, Uint8Array.of(1));
}

async function hmacSha256(secret: Bytes, message: Bytes): Promise<Bytes> {
  const key = await crypto.subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", key, message));
}

async function textCheck(secret: Bytes): Promise<string> {
  return toHex(await sha256(concat(utf8("iom/key-text/v1"), secret))).slice(0, 8);
}

/** One byte for each letter, the same for all letters that no check has. */
function lettersOf(text: string): Bytes {
  return Uint8Array.from(text, (letter) => Math.min(letter.charCodeAt(0), 255));
}
