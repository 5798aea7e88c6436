/** Bytes and their texts: UTF-8, hexadecimal, URL-safe Base64 without padding. */

/** Bytes in memory of their own, as WebCrypto takes them. */
export type Bytes = Uint8Array<ArrayBuffer>;

/** A copy of some bytes; a `TypeError` for anything else. */
export function copyOf(bytes: Uint8Array): Bytes {
  if (!(bytes instanceof Uint8Array)) throw new TypeError(`expected a Uint8Array, received ${typeof bytes}`);
  return new Uint8Array(bytes);
}

/** UTF-8 of a text; a `TypeError` for a lone surrogate, which has none. */
export function utf8(text: string): Bytes {
  if (typeof text !== "string") throw new TypeError(`expected a text, received ${typeof text}`);
  if (!text.isWellFormed()) throw new TypeError("expected a text of whole characters, received half of one");
  return new TextEncoder().encode(text) as Bytes;
}

/** All parts, one after the other. */
export function concat(...parts: Uint8Array[]): Bytes {
  const all = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let start = 0;
  for (const part of parts) {
    all.set(part, start);
    start += part.length;
  }
  return all;
}

/** Four bytes, big endian. */
export function uint32(value: number): Bytes {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

/** Lower-case hexadecimal digits. */
export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** URL-safe Base64 without padding. */
export function toBase64Url(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** Bytes of `toBase64Url`; `undefined` for any other text, also where the last character holds bits of no byte. */
export function fromBase64Url(text: string): Bytes | undefined {
  if (typeof text !== "string" || !/^[A-Za-z0-9_-]*$/.test(text) || text.length % 4 === 1) return undefined;
  const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
  return toBase64Url(bytes) === text ? bytes : undefined;
}

/** Whether two byte strings are equal, in a time that depends on their lengths alone. */
export function equalBytes(first: Uint8Array, second: Uint8Array): boolean {
  if (first.length !== second.length) return false;
  let differing = 0;
  for (let i = 0; i < first.length; i++) differing |= first[i] ^ second[i];
  return differing === 0;
}

/** XOR of two byte strings of one length. */
export function xor(first: Uint8Array, second: Uint8Array): Bytes {
  if (first.length !== second.length) {
    throw new TypeError(`XOR: expected two strings of one length, received ${first.length} and ${second.length} bytes`);
  }
  return Uint8Array.from(first, (byte, i) => byte ^ second[i]);
}

/** SHA-256 of some bytes. */
export async function sha256(bytes: Uint8Array): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as Bytes));
}
