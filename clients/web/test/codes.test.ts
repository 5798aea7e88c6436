import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Code, CodeError, codeBytes, distance, encodingId, joinCode, splitCode } from "../src/index.js";
import { planeCount } from "../src/codes.js";

const codes = fc
  .tuple(fc.integer({ min: 2, max: 256 }), fc.integer({ min: 1, max: 300 }))
  .chain(([alphabet, size]) =>
    fc
      .uint8Array({ minLength: size, maxLength: size, max: alphabet - 1 })
      .map((symbols) => new Code(symbols, alphabet)),
  );

const bits = (byte: number) => Array.from({ length: 8 }, (_, place) => (byte >> place) & 1);

describe("codes", () => {
  it("are stored as in Python", () => {
    expect([...new Code(Uint8Array.of(0, 3, 1), 4).toBytes()]).toEqual([
      6, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
    ]);
    expect(encodingId(512, 8)).toBe("iom-planes/1:512x8");
    expect(codeBytes(512, 8)).toBe(192);
  });

  it("come back from their bytes and their shares", () =>
    fc.assert(
      fc.property(codes, (code) => {
        const { symbols, alphabetSize } = code;
        const bytes = code.toBytes();
        expect(Code.fromBytes(bytes, symbols.length, alphabetSize).symbols).toEqual(symbols);
        const [first, second] = splitCode(code);
        expect(joinCode(first, second, symbols.length, alphabetSize).symbols).toEqual(symbols);
        const plane = bytes.length / planeCount(alphabetSize);
        for (let start = 0; start < bytes.length; start += plane) {
          const padding = [...first.subarray(start, start + plane)].flatMap((byte) => bits(byte)).slice(symbols.length);
          expect(padding).not.toContain(1);
        }
      }),
    ));

  it("refuse bytes with a bit in the padding, or of another length", () =>
    fc.assert(
      fc.property(codes, fc.nat(), (code, at) => {
        const { symbols, alphabetSize } = code;
        const bytes = code.toBytes();
        const plane = 8 * 8 * Math.ceil(symbols.length / 64);
        if (plane > symbols.length) {
          const place = symbols.length + (at % (plane - symbols.length));
          const changed = bytes.slice();
          changed[place >> 3] |= 1 << (place & 7);
          expect(() => Code.fromBytes(changed, symbols.length, alphabetSize)).toThrow(CodeError);
        }
        expect(() => Code.fromBytes(bytes.subarray(1), symbols.length, alphabetSize)).toThrow(CodeError);
      }),
    ));

  it("refuse symbols outside of the alphabet, in symbols and in bytes", () => {
    expect(() => new Code(Uint8Array.of(0, 5), 5)).toThrow(CodeError);
    const bytes = new Code(Uint8Array.of(0, 7), 8).toBytes();
    expect(() => Code.fromBytes(bytes, 2, 5)).toThrow(CodeError);
    for (const alphabet of [0, 1, 257, 2.5]) expect(() => new Code(Uint8Array.of(0), alphabet)).toThrow(CodeError);
    expect(() => new Code(new Uint8Array(0), 2)).toThrow(CodeError);
    expect(() => new Code([0, 1] as unknown as Uint8Array, 2)).toThrow(CodeError);
  });

  it("have a distance that is a metric", () =>
    fc.assert(
      fc.property(codes, fc.uint8Array({ minLength: 300, maxLength: 300 }), (code, noise) => {
        const { symbols, alphabetSize } = code;
        const other = new Code(
          symbols.map((symbol, i) => (symbol + noise[i]) % alphabetSize),
          alphabetSize,
        );
        const expected = symbols.filter((_, i) => noise[i] % alphabetSize !== 0).length;
        expect([distance(code, code), distance(code, other), distance(other, code)]).toEqual([0, expected, expected]);
      }),
    ));

  it("compare with codes of their size alone", () => {
    const code = new Code(Uint8Array.of(0, 1), 2);
    expect(() => distance(code, new Code(Uint8Array.of(0, 1), 3))).toThrow(CodeError);
    expect(() => distance(code, new Code(Uint8Array.of(0), 2))).toThrow(CodeError);
  });

  it("show no symbols in JSON", () => {
    expect(JSON.stringify(new Code(Uint8Array.of(1, 0, 1), 2))).toBe('{"codeLength":3,"alphabetSize":2}');
  });

  it("have shares that are uniform", () => {
    const ones = new Code(new Uint8Array(4096).fill(1), 2);
    const [first, second] = splitCode(ones);
    const count = (bytes: Uint8Array) =>
      bytes.reduce((sum, byte) => sum + byte.toString(2).replaceAll("0", "").length, 0);
    for (const share of [first, second]) expect(Math.abs(count(share) - 2048)).toBeLessThan(6 * 32);
  });
});
