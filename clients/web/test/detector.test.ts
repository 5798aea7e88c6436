/** The steps between the networks of the detector, with networks that answer what a test says. */

import { describe, expect, it } from "vitest";
import type { Point } from "../src/align.js";
import { Detector, roundHalfEven } from "../src/detector.js";
import type { Network } from "../src/runtime.js";
import { DETECTOR } from "./made_artefact.js";

const IMAGE = { data: new Uint8Array(3 * 100 * 80).fill(100), width: 100, height: 80 };
const HIGH = 5;
const LOW = -5;

/** A first network with these scores at every place. */
const proposing = (logit: number): Network => {
  return async (_, [, height, width]) => {
    const [down, across] = [Math.floor((height - 12) / 2) + 1, Math.floor((width - 12) / 2) + 1];
    const data = new Float32Array(5 * down * across);
    data.fill(logit, 4 * down * across);
    return { data, dims: [1, 5, down, across] };
  };
};

/** A second or third network: no offsets, landmarks in the middle, and a score for the nth box. */
const answering = (width: number, score: (box: number) => number): Network => {
  let box = 0;
  return async (_, [count]) => {
    const data = new Float32Array(count * width).fill(0.5);
    for (let i = 0; i < count; i++) {
      data.fill(0, i * width, i * width + 4);
      data[(i + 1) * width - 1] = score(box++);
    }
    return { data, dims: [count, width] };
  };
};

const made = (first: number, second: (box: number) => number, third: (box: number) => number): Detector =>
  new Detector({ pnet: proposing(first), rnet: answering(5, second), onet: answering(15, third) }, DETECTOR);

describe("the detector", () => {
  it.each<[string, number, number, number]>([
    ["first", LOW, HIGH, HIGH],
    ["second", HIGH, LOW, HIGH],
    ["third", HIGH, HIGH, LOW],
  ])("finds nothing where the %s network finds nothing", async (_, first, second, third) => {
    const found = made(
      first,
      () => second,
      () => third,
    );
    expect(await found.faces(IMAGE)).toEqual([]);
  });

  it("follows a chain of boxes that overlap to its best one", async () => {
    const all = made(
      HIGH,
      () => HIGH,
      () => HIGH,
    );
    expect((await all.faces(IMAGE)).length).toBe(1);
  });

  describe("of two faces", () => {
    const SIDE = 11 / 0.6 + 1; // of a box of the largest scale
    const two = (offsets: number[] = [0, 0, 0, 0]) => {
      const pnet: Network = async (data, dims) => {
        const found = await proposing(LOW)(data, dims);
        const plane = found.dims[2] * found.dims[3];
        if (dims[2] !== 60) return found; // another scale
        found.data[4 * plane] = HIGH;
        found.data[5 * plane - 1] = HIGH - 1;
        return found;
      };
      const plain = answering(15, (box) => HIGH - box);
      const onet: Network = async (data, dims) => {
        const found = await plain(data, dims);
        found.data.set(offsets, 15);
        return found;
      };
      return new Detector({ pnet, rnet: answering(5, (box) => HIGH - box), onet }, DETECTOR).faces(IMAGE);
    };

    it("reports both, best first", async () => {
      const [first, second] = await two();
      expect(first.score).toBeGreaterThan(second.score);
      expect(second.points[0][0] - first.points[0][0]).toBeGreaterThan(60);
    });

    it.each<[string, number]>([
      ["at the same place", 0],
      ["within the other", 0.25],
    ])("leaves out the one %s", async (_, inside) => {
      const [first, second] = await two();
      const [x, y] = [0, 1].map((axis) => (first.points[0][axis] - second.points[0][axis]) / SIDE);
      expect(await two([x + inside, y + inside, x - inside, y - inside])).toEqual([first]);
    });
  });

  it("drops boxes of scores that are no numbers", async () => {
    const found = made(
      Number.NaN,
      () => HIGH,
      () => HIGH,
    );
    expect(await found.faces(IMAGE)).toEqual([]);
  });

  it.each([
    [1, 1],
    [11, 11],
    [12, 900],
  ])("looks at a picture of %i x %i pixels", async (width, height) => {
    const data = new Uint8Array(3 * width * height);
    const found = made(
      LOW,
      () => LOW,
      () => LOW,
    );
    expect(await found.faces({ data, width, height })).toEqual([]);
  });

  it("takes a crop for a face only with landmarks where they belong", async () => {
    const crop = { data: new Uint8Array(3 * 112 * 112), width: 112, height: 112 };
    const middle: Point[] = Array.from({ length: 5 }, () => [56, 68]);
    const away: Point[] = middle.map(([x]) => [x, 100]);
    const seeing = (logit: number) =>
      made(
        HIGH,
        () => HIGH,
        () => logit,
      );
    expect(await seeing(HIGH).holdsFace(crop, middle)).toBe(true);
    expect(await seeing(HIGH).holdsFace(crop, away)).toBe(false);
    expect(await seeing(2).holdsFace(crop, middle)).toBe(false);
  });
});

it.each([
  [0.5, 0],
  [1.5, 2],
  [2.5, 2],
  [-0.5, -0],
  [2.4, 2],
  [2.6, 3],
])("rounds %f to %i as Python does", (value, expected) => {
  expect(roundHalfEven(value) === expected).toBe(true);
});
