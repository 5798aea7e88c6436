/** Test vectors that both sides read: `tests/vectors/*.json` of the project. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));

/** The content of `tests/vectors/NAME.json`. */
export function vectors<T>(name: string): T {
  return JSON.parse(readFileSync(`${ROOT}tests/vectors/${name}.json`, "utf8")) as T;
}

export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.from(text, "base64"));
}

export function fromHex(text: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.from(text, "hex"));
}
