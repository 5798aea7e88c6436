import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KeyMaterialError, TransformKey, type KeyKind } from "../src/index.js";
import { partCount } from "../src/keys.js";

const secrets = fc.uint8Array({ minLength: 32, maxLength: 32 });
const kinds: KeyKind[] = ["permutation", "subset", "orthogonal", "part"];

describe("keys", () => {
  it("are generated fresh", async () => {
    const [first, second] = [await TransformKey.generate(), await TransformKey.generate()];
    expect(await first.equals(second)).toBe(false);
    expect(await first.toText()).toMatch(/^iom-key-1:[A-Za-z0-9_-]{43}:[0-9a-f]{8}$/);
  });

  it("never change their orders", async () => {
    const key = await TransformKey.fromBytes(new Uint8Array(32));
    expect([...(await key.order("permutation", 8))]).toEqual([4, 2, 0, 7, 1, 5, 6, 3]);
  });

  it("come back from their text", () =>
    fc.assert(
      fc.asyncProperty(secrets, async (secret) => {
        const key = await TransformKey.fromBytes(secret);
        const read = await TransformKey.fromText(`  ${await key.toText()}\n`);
        expect(await read.equals(key)).toBe(true);
        expect([...(await read.toBytes())]).toEqual([...secret]);
      }),
    ));

  it("refuse any text with another letter, and tell nothing of it", () =>
    fc.assert(
      fc.asyncProperty(secrets, fc.nat(), fc.string({ minLength: 1, maxLength: 1 }), async (secret, at, letter) => {
        const text = await (await TransformKey.fromBytes(secret)).toText();
        const place = at % text.length;
        const changed = text.slice(0, place) + letter + text.slice(place + 1);
        fc.pre(changed.trim() !== text);
        const error = await TransformKey.fromText(changed).catch((found: unknown) => found);
        expect(error).toBeInstanceOf(KeyMaterialError);
        expect((error as Error).message).not.toContain(text.split(":")[1].slice(0, 8));
      }),
    ));

  it.each([
    "",
    "iom-key-1:",
    "iom-key-1::",
    "iom-token-1:AAAA:00000000",
    "iom-key-2:AAAA:00000000",
    "\0",
    "iom-key-1:\u{1F600}:x",
  ])("refuse the text %j", async (text) => {
    await expect(TransformKey.fromText(text)).rejects.toThrow(KeyMaterialError);
  });

  it("refuse what is no key", async () => {
    for (const value of [new Uint8Array(31), new Uint8Array(33), "x".repeat(32), null, undefined, [1, 2]]) {
      await expect(TransformKey.fromBytes(value as Uint8Array)).rejects.toThrow(KeyMaterialError);
      await expect(TransformKey.fromText(value as string)).rejects.toThrow(KeyMaterialError);
    }
  });

  it("leave no traces in logs and JSON", async () => {
    const key = await TransformKey.fromBytes(new Uint8Array(32).fill(171));
    const shown = [JSON.stringify(key), String(key), JSON.stringify({ ...key }), JSON.stringify(Object.entries(key))];
    for (const text of shown) expect(text).not.toMatch(/171|abab|q6ur/i);
  });

  it("do not change with the bytes that they were made of", async () => {
    const secret = new Uint8Array(32).fill(7);
    const key = await TransformKey.fromBytes(secret);
    secret.fill(0);
    (await key.toBytes()).fill(0);
    expect([...(await key.toBytes())]).toEqual([...new Uint8Array(32).fill(7)]);
  });

  it("give orders that are permutations", () =>
    fc.assert(
      fc.asyncProperty(
        secrets,
        fc.constantFrom(...kinds),
        fc.integer({ min: 2, max: 200 }),
        fc.nat(),
        async (secret, kind, size, at) => {
          const keep = at % size;
          const key = await TransformKey.fromBytes(secret);
          const order = await key.order(kind, size, keep);
          for (let round = 0; round < order.length / size; round++) {
            const places = [...order.subarray(round * size, (round + 1) * size)].map((place) =>
              place < 0 ? -place - 1 : place,
            );
            expect(places.sort((a, b) => a - b)).toEqual(Array.from({ length: size }, (_, i) => i));
          }
        },
      ),
    ));

  it.each([
    [10, 7, 2],
    [10, 5, 2],
    [10, 3, 3],
    [10, 10, 1],
    [10, 0, 1],
  ])("have parts of %i dimensions, %i kept: %i", (size, keep, parts) => {
    expect(partCount(size, keep)).toBe(parts);
  });

  it("refuse orders of no size or an unknown kind", async () => {
    const key = await TransformKey.generate();
    for (const size of [0, -1, 1.5, Number.NaN])
      await expect(key.order("permutation", size)).rejects.toThrow(KeyMaterialError);
    await expect(key.order("subset", 4, 5)).rejects.toThrow(KeyMaterialError);
    await expect(key.order("__proto__" as KeyKind, 4)).rejects.toThrow("kind of key");
  });

  it("part their labels", async () => {
    const master = await TransformKey.generate();
    const derived = await Promise.all([
      master.derive({ application: "ab", subject: "c" }),
      master.derive({ application: "a", subject: "bc" }),
      master.derive({ application: "ab", subject: "c", record: 1 }),
      master.derive({ application: "", subject: "abc" }),
    ]);
    expect(new Set(await Promise.all(derived.map((key) => key.identifier()))).size).toBe(4);
    expect(await derived[0].equals(await master.derive({ application: "ab", subject: "c", record: 0 }))).toBe(true);
  });

  it("refuse labels that have no UTF-8 and records that are no numbers", async () => {
    const master = await TransformKey.generate();
    await expect(master.derive({ application: "a\ud800", subject: "b" })).rejects.toThrow(KeyMaterialError);
    for (const record of [-1, 0.5, Number.NaN, 2 ** 60]) {
      await expect(master.derive({ application: "a", subject: "b", record })).rejects.toThrow(KeyMaterialError);
    }
  });
});
