import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fromBase64Url, toBase64Url, toHex } from "../src/bytes.js";
import { signedMessage, type SignedFields } from "../src/index.js";

const bytes = fc.uint8Array({ maxLength: 40 });
const text = fc.string({ maxLength: 10 });
const fields: fc.Arbitrary<SignedFields> = fc.record({
  action: fc.constantFrom("enroll", "verify", "renew", "revoke"),
  application: text,
  subject: text,
  hasher: text,
  key: text,
  code: bytes,
  device: bytes,
  nonce: bytes,
});

describe("a signed message", () => {
  it("has each field behind its length", () => {
    const message = signedMessage({ action: "revoke", application: "a", subject: "b", nonce: Uint8Array.of(255) });
    const label = Buffer.from("iom/on-device/v1").toString("hex");
    const rest =
      "00000006" +
      Buffer.from("revoke").toString("hex") +
      "0000000161" +
      "0000000162" +
      "00000000".repeat(4) +
      "00000001ff";
    expect(toHex(message)).toBe(label + rest);
  });

  it("is another one for other fields", () =>
    fc.assert(
      fc.property(fields, fields, (first, second) => {
        const shown = (each: SignedFields) =>
          JSON.stringify({
            ...each,
            subject: each.subject.normalize("NFC"),
            code: [...each.code!],
            device: [...each.device!],
            nonce: [...each.nonce],
          });
        expect(toHex(signedMessage(first)) === toHex(signedMessage(second))).toBe(shown(first) === shown(second));
      }),
    ));

  it("has no room to move bytes from one field into the next", () => {
    const nonce = new Uint8Array(1);
    const apart = signedMessage({ action: "verify", application: "ab", subject: "c", nonce });
    const moved = signedMessage({ action: "verify", application: "a", subject: "bc", nonce });
    expect(toHex(apart)).not.toBe(toHex(moved));
  });
});

describe("Base64", () => {
  it("comes back, in one form only", () =>
    fc.assert(
      fc.property(bytes, fc.string({ maxLength: 12 }), (value, other) => {
        expect(fromBase64Url(toBase64Url(value))).toEqual(value);
        const read = fromBase64Url(other);
        if (read !== undefined) expect(toBase64Url(read)).toBe(other);
      }),
    ));

  it.each(["A", "AA==", "AB", "A+", "A/", " AAA", "A\nAA"])("refuses %j", (value) => {
    expect(fromBase64Url(value)).toBeUndefined();
  });
});
