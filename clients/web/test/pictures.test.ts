import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { align, faceSize, sharpnessOf, similarity, type Point } from "../src/align.js";
import { pixelsOf } from "../src/images.js";
import { FaceError } from "../src/index.js";
import { reduced, resized, sampled } from "../src/resampling.js";
import { fromBase64, vectors } from "./vectors.js";

const LANDMARKS: Point[] = [
  [38.2946, 51.6963],
  [73.5318, 51.5014],
  [56.0252, 71.7366],
  [41.5493, 92.3655],
  [70.7299, 92.2041],
];

interface Sizes {
  width: number;
  height: number;
  pixels: string;
}
type Aligned = Sizes & { points: Point[]; template: { size: number; scale: number; shift: Point } };
type Resized = Sizes & { to_width: number; to_height: number };
const cases = vectors<{ aligned: Record<string, Aligned>; resized: Record<string, Resized> }>("pictures");

function pattern(width: number, height: number) {
  const value = (x: number, y: number, band: number) =>
    (x * 7 + y * 13 + band * 29 + ((x * y) % 11) * 9 + ((Math.floor(x / 9) + Math.floor(y / 7)) % 2) * 90) % 256;
  const at = (i: number) => value(Math.floor(i / 3) % width, Math.floor(i / 3 / width), i % 3);
  return { data: Uint8Array.from({ length: 3 * width * height }, (_, i) => at(i)), width, height };
}

/** Bytes that differ by one may be few: the last bit of a matrix decides them. */
function expectSame(found: Uint8Array, expected: Uint8Array) {
  expect(found.length).toBe(expected.length);
  const differences = found.map((value, i) => Math.abs(value - expected[i]));
  expect(Math.max(...differences)).toBeLessThanOrEqual(1);
  expect(differences.filter((value) => value > 0).length).toBeLessThanOrEqual(0.002 * found.length);
}

describe("pictures", () => {
  it.each(Object.entries(cases.aligned))(
    "are aligned as in Python: %s",
    (_, { width, height, points, template, pixels }) => {
      expectSame(align(pattern(width, height), points, { ...template, landmarks: LANDMARKS }), fromBase64(pixels));
    },
  );

  it.each(Object.entries(cases.resized))(
    "are resized as in Python: %s",
    (_, { width, height, to_width, to_height, pixels }) => {
      expectSame(resized(pattern(width, height), to_width, to_height).data, fromBase64(pixels));
    },
  );

  it("keep one colour, whatever is done to them", () =>
    fc.assert(
      fc.property(
        fc.nat(255),
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 1, max: 40 }),
        (colour, width, height, size) => {
          const image = { data: new Uint8Array(3 * width * height).fill(colour), width, height };
          for (const made of [reduced(image, 3, 2), resized(image, size, size)])
            expect(made.data.every((value) => value === colour)).toBe(true);
        },
      ),
    ));

  it("show every pixel of the picture or black", () =>
    fc.assert(
      fc.property(
        fc.double({ min: -5, max: 5, noNaN: true }),
        fc.double({ min: -90, max: 90, noNaN: true }),
        (turn, shift) => {
          const image = { data: new Uint8Array(3 * 64).fill(200), width: 8, height: 8 };
          const found = sampled(
            image,
            [
              [turn, 0.1],
              [0.2, turn],
            ],
            [shift, -shift],
            10,
          );
          expect(found.every((value) => value === 0 || value === 200)).toBe(true);
        },
      ),
    ));
});

describe("landmarks", () => {
  it("of the template need no turn", () => {
    const matrix = similarity(LANDMARKS, LANDMARKS).flat();
    [1, 0, 0, 0, 1, 0].forEach((expected, i) => expect(matrix[i]).toBeCloseTo(expected, 9));
  });

  it("of a face that is turned, scaled and moved come back", () =>
    fc.assert(
      fc.property(
        fc.double({ min: 0.1, max: 20, noNaN: true }),
        fc.double({ min: -3, max: 3, noNaN: true }),
        fc.double({ min: -500, max: 500, noNaN: true }),
        (scale, turn, shift) => {
          const [a, b] = [scale * Math.cos(turn), scale * Math.sin(turn)];
          const points = LANDMARKS.map(([x, y]): Point => [a * x - b * y + shift, b * x + a * y - shift]);
          const [first, second] = similarity(points, LANDMARKS);
          points.forEach(([x, y], i) => {
            expect(first[0] * x + first[1] * y + first[2]).toBeCloseTo(LANDMARKS[i][0], 5);
            expect(second[0] * x + second[1] * y + second[2]).toBeCloseTo(LANDMARKS[i][1], 5);
          });
          expect(faceSize(points, LANDMARKS)).toBeCloseTo(112 * scale, 4);
        },
      ),
    ));

  it.each<[string, Point[]]>([
    ["one point", Array.from({ length: 5 }, (): Point => [3, 4])],
    ["four points", LANDMARKS.slice(1)],
    ["no numbers", [[Number.NaN, 1], ...LANDMARKS.slice(1)] as Point[]],
    ["infinite ones", [[Number.POSITIVE_INFINITY, 1], ...LANDMARKS.slice(1)] as Point[]],
  ])("are refused where they are %s", (_, points) => {
    expect(() => similarity(points, LANDMARKS)).toThrow(FaceError);
  });

  it("outside of the picture give black", () => {
    const far = LANDMARKS.map(([x, y]): Point => [x + 9000, y + 9000]);
    const template = { size: 30, scale: 0.3, shift: [0, 0] as Point, landmarks: LANDMARKS };
    expect(align(pattern(40, 40), far, template).every((value) => value === 0)).toBe(true);
  });
});

describe("sharpness", () => {
  it("is none for a surface of one colour and much for a pattern", () => {
    expect(sharpnessOf(new Uint8Array(3 * 112 * 112).fill(90), 16)).toBeCloseTo(0, 9);
    expect(sharpnessOf(pattern(112, 112).data, 16)).toBeGreaterThan(1000);
  });
});

describe("pixels", () => {
  it("lie on white where they are transparent", async () => {
    const rgba = Uint8Array.of(0, 0, 0, 0, 10, 20, 30, 255, 0, 100, 200, 128);
    const { data } = await pixelsOf({ data: rgba, width: 3, height: 1 }, 64);
    expect([...data]).toEqual([255, 255, 255, 10, 20, 30, 127, 177, 227]);
  });

  it.each<[string, unknown, string]>([
    ["an empty file", new Blob([]), "empty"],
    ["no picture", null, "wrong_type"],
    ["a text", "data:image/png;base64,", "wrong_type"],
    ["too few bytes", { data: new Uint8Array(7), width: 1, height: 2 }, "wrong_type"],
    ["numbers that are no bytes", { data: [0, 0, 0, 0], width: 1, height: 1 }, "wrong_type"],
    ["no pixels", { data: new Uint8Array(0), width: 0, height: 0 }, "empty"],
    ["a size that is no number", { data: new Uint8Array(4), width: Number.NaN, height: 1 }, "empty"],
    ["too many pixels", { data: new Uint8Array(4), width: 1e5, height: 1e5 }, "too_large"],
  ])("of %s are refused", async (_, picture, status) => {
    await expect(pixelsOf(picture as Blob, 64)).rejects.toMatchObject({ status });
  });
});
