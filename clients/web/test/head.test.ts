import { describe, expect, it } from "vitest";
import { sumOf } from "../src/arithmetic.js";
import { Head, type StatedHead } from "../src/head.js";
import { ArtefactError, TransformKey, type KeyKind } from "../src/index.js";
import { fromHex, vectors } from "./vectors.js";

interface Case {
  name: string;
  code_length: number;
  alphabet_size: number;
  key: { kind: KeyKind; size: number; keep: number };
  head: StatedHead;
  head_bin: string;
  vectors: { secret: string; embedding: number[]; symbols: number[] }[];
}

const cases = vectors<{ heads: Case[] }>("heads").heads;
const read = ({ head, head_bin, alphabet_size }: Case) => new Head(head, fromHex(head_bin), alphabet_size);

describe("a hash network", () => {
  it.each(cases.map((found) => [found.name, found] as const))("gives the codes of Python: %s", async (_, found) => {
    const { kind, size, keep } = found.key;
    const head = read(found);
    for (const { secret, embedding, symbols } of found.vectors) {
      const order = await (await TransformKey.fromBytes(fromHex(secret))).order(kind, size, keep);
      expect([...head.hash(Float32Array.from(embedding), order)]).toEqual(symbols);
    }
  });

  it.each<[string, (found: Case) => void]>([
    ["an unknown step", ({ head }) => (head.steps[0].step = "toString")],
    ["a step that reads a later one", ({ head }) => (head.steps[0].reads = [3])],
    ["a step that reads none", ({ head }) => (head.steps[0].reads = [-1])],
    ["a missing array", ({ head }) => delete head.arrays["1/kernel"]],
    ["an array beyond the file", ({ head, head_bin }) => (head.arrays["1/kernel"].offset = head_bin.length / 2)],
    ["an array of negative place", ({ head }) => (head.arrays["1/kernel"].offset = -8)],
    ["an array of another type", ({ head }) => (head.arrays["1/kernel"].dtype = "int8" as "float16")],
    ["an array of huge size", ({ head }) => (head.arrays["1/kernel"].shape = [2 ** 40, 2 ** 40])],
  ])("is refused with %s", (_, change) => {
    const found = structuredClone(cases.find(({ name }) => name === "refined")!);
    change(found);
    expect(() => read(found)).toThrow(ArtefactError);
  });
});

describe("sums", () => {
  it.each([1, 7, 8, 9, 128, 129, 300, 1536])("of %i numbers are near the exact ones", (size) => {
    const values = Float32Array.from({ length: size }, (_, i) => (Math.sin(i * 12.9898) * 43758.5453) % 1);
    const exact = values.reduce((sum, value) => sum + value, 0);
    expect(Math.abs(sumOf(values) - exact)).toBeLessThan(1e-5 * size);
  });
});
