/** Keys, codes and messages against the vectors that the Python package is tested with. */

import { describe, expect, it } from "vitest";
import { toHex, xor } from "../src/bytes.js";
import {
  Code,
  CodeError,
  distance,
  encodingId,
  joinCode,
  KeyMaterialError,
  signedMessage,
  TransformKey,
  type SidedAction,
  type KeyKind,
} from "../src/index.js";
import { DERIVATIONS, partCount } from "../src/keys.js";
import { subjectName } from "../src/protocol.js";
import { fromHex, vectors } from "./vectors.js";

interface Secret {
  secret: string;
}
interface Keys {
  keys: (Secret & { text: string; identifier: string })[];
  broken_texts: string[];
  derive: (Secret & { application: string; subject: string; record: number; derived: string })[];
  parts: (Secret & { size: number; keep: number; parts: number; part: number })[];
  orders: (Secret & { kind: KeyKind; derivation: string; size: number; keep: number; order: number[] })[];
}
interface Sizes {
  code_length: number;
  alphabet_size: number;
}
interface Codes {
  codes: (Sizes & { encoding: string; symbols: number[]; bytes: string })[];
  broken: (Sizes & { why: string; bytes: string })[];
  distances: (Sizes & { first: string; second: string; distance: number })[];
  shares: (Sizes & { code: string; shares: [string, string] })[];
}
interface Messages {
  devices: { spki: string }[];
  messages: {
    action: SidedAction;
    application: string;
    subject: string;
    given_subject: string;
    hasher: string;
    key: string;
    code: string;
    device: string;
    nonce: string;
    message: string;
    signature: string;
  }[];
  refused: { why: string; device: string; message: string; signature: string }[];
}

async function isSigned(spki: string, message: Uint8Array<ArrayBuffer>, signature: string): Promise<boolean> {
  const key = await crypto.subtle.importKey("spki", fromHex(spki), { name: "ECDSA", namedCurve: "P-256" }, false, [
    "verify",
  ]);
  return crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, fromHex(signature), message);
}

const keyOf = ({ secret }: Secret) => TransformKey.fromBytes(fromHex(secret));

describe("vectors of keys", () => {
  const found = vectors<Keys>("keys");

  it("have these texts and identifiers", async () => {
    for (const vector of found.keys) {
      const key = await keyOf(vector);
      expect(await key.toText()).toBe(vector.text);
      expect(await key.identifier()).toBe(vector.identifier);
      expect(await (await TransformKey.fromText(vector.text)).equals(key)).toBe(true);
    }
  });

  it.each(found.broken_texts)("refuse %j", async (text) => {
    await expect(TransformKey.fromText(text)).rejects.toThrow(KeyMaterialError);
  });

  it.each(found.derive)("derive for $application / $subject / $record", async (vector) => {
    expect(toHex(await (await (await keyOf(vector)).derive(vector)).toBytes())).toBe(vector.derived);
  });

  it.each(found.orders)("order $size dimensions of kind $kind, keep $keep", async (vector) => {
    expect(DERIVATIONS[vector.kind]).toBe(vector.derivation);
    expect([...(await (await keyOf(vector)).order(vector.kind, vector.size, vector.keep))]).toEqual(vector.order);
  });

  it("use these parts", async () => {
    for (const vector of found.parts) {
      expect(partCount(vector.size, vector.keep)).toBe(vector.parts);
      expect(await (await keyOf(vector)).part(vector.parts)).toBe(vector.part);
    }
  });
});

describe("vectors of codes", () => {
  const found = vectors<Codes>("codes");

  it.each(found.codes)("$encoding", ({ code_length, alphabet_size, encoding, symbols, bytes }) => {
    expect(encodingId(code_length, alphabet_size)).toBe(encoding);
    expect(toHex(new Code(Uint8Array.from(symbols), alphabet_size).toBytes())).toBe(bytes);
    expect([...Code.fromBytes(fromHex(bytes), code_length, alphabet_size).symbols]).toEqual(symbols);
  });

  it.each(found.broken)("refuse $why", ({ code_length, alphabet_size, bytes }) => {
    expect(() => Code.fromBytes(fromHex(bytes), code_length, alphabet_size)).toThrow(CodeError);
  });

  it("are so far apart", () => {
    for (const { code_length, alphabet_size, first, second, distance: expected } of found.distances) {
      const read = (bytes: string) => Code.fromBytes(fromHex(bytes), code_length, alphabet_size);
      expect(distance(read(first), read(second))).toBe(expected);
    }
  });

  it("have these shares", () => {
    for (const { code_length, alphabet_size, code, shares } of found.shares) {
      const [first, second] = shares.map(fromHex);
      expect(toHex(xor(first, second))).toBe(code);
      expect(toHex(joinCode(first, second, code_length, alphabet_size).toBytes())).toBe(code);
    }
  });
});

describe("vectors of messages", () => {
  const found = vectors<Messages>("messages");

  it.each(found.messages)("$action of $given_subject", async (vector) => {
    expect(subjectName(vector.given_subject)).toBe(vector.subject);
    const message = signedMessage({
      ...vector,
      subject: vector.given_subject,
      code: fromHex(vector.code),
      device: fromHex(vector.device),
      nonce: fromHex(vector.nonce),
    });
    expect(toHex(message)).toBe(vector.message);
    expect(await isSigned(found.devices[0].spki, message, vector.signature)).toBe(true);
  });

  it.each(found.refused)("are not signed: $why", async ({ device, message, signature }) => {
    expect(await isSigned(device, fromHex(message), signature).catch(() => false)).toBe(false);
  });
});
