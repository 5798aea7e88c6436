/** MTCNN, the packaged detector of faces with five landmarks: `iom.photos.mtcnn`. */

import { SIZE, type Point } from "./align.js";
import type { Face, Pixels } from "./images.js";
import type { Network } from "./runtime.js";

const CELL = 12;
const STRIDE = 2;
const MAX_BOXES = 5000;
const OUTSIDE = 127.5;
const BATCH = 16;
const SIDES = { rnet: 24, onet: 48 };
const { fround } = Math;

/** Thresholds and steps of `web.json`. */
export interface DetectorSettings {
  min_face: number;
  scale: number;
  proposed: number;
  refined: number;
  reported: number;
  aligned_score: number;
  aligned_offset: number;
}

/** Left, top, right, bottom. */
type Box = [number, number, number, number];
interface Scored {
  box: Box;
  score: number;
}

/** The three networks of the detector. */
export class Detector {
  readonly #networks: Record<"pnet" | "rnet" | "onet", Network>;
  readonly #settings: DetectorSettings;

  constructor(networks: Record<"pnet" | "rnet" | "onet", Network>, settings: DetectorSettings) {
    this.#networks = networks;
    this.#settings = settings;
  }

  /** Faces of RGB pixels, best score first. */
  async faces(image: Pixels): Promise<Face[]> {
    const { refined, reported } = this.#settings;
    const proposed = await this.#proposed(image);
    const answers = await this.#answers("rnet", image, proposed);
    const second = proposed
      .map((box, i) => ({ box: moved(box, answers[i]), score: sigmoid(answers[i][answers[i].length - 1]) }))
      .filter(({ score }) => score > refined);
    const third = (
      await this.#third(
        image,
        best(second, 0.7).map(({ box }) => square(box)),
      )
    ).filter(({ score }) => score > reported);
    return best(third, 0.7, true).map(({ points, score }) => ({ points, score }));
  }

  /** Whether an ArcFace crop shows a face, with its landmarks about where they belong. */
  async holdsFace(crop: Pixels, landmarks: readonly Point[]): Promise<boolean> {
    const { aligned_score, aligned_offset } = this.#settings;
    const found = await this.#third(crop, alignedBoxes());
    return found.some(({ points, score }) => {
      const offsets = points.map(([x, y], i) => Math.hypot(x - landmarks[i][0], y - landmarks[i][1]));
      const mean = offsets.reduce((sum, offset) => sum + offset, 0) / offsets.length;
      return score > aligned_score && mean < aligned_offset;
    });
  }

  /** Boxes moved by the third network, landmarks and scores. */
  async #third(image: Pixels, boxes: Box[]): Promise<(Scored & { points: Point[] })[]> {
    const answers = await this.#answers("onet", image, boxes);
    return boxes.map((box, i) => {
      const row = answers[i];
      const sides = [box[2] - box[0] + 1, box[3] - box[1] + 1];
      const points = Array.from({ length: 5 }, (_, k): Point => {
        return [row[4 + k] * sides[0] + box[0] - 1, row[9 + k] * sides[1] + box[1] - 1];
      });
      return { box: moved(box, row), points, score: sigmoid(row[row.length - 1]) };
    });
  }

  /** Answers of a network on boxes of the image, a row for each. */
  async #answers(name: "rnet" | "onet", image: Pixels, boxes: Box[]): Promise<Float32Array[]> {
    const side = SIDES[name];
    const rows: Float32Array[] = [];
    for (let start = 0; start < boxes.length; start += BATCH) {
      const part = boxes.slice(start, start + BATCH);
      const { data } = await this.#networks[name](patches(image, part, side), [part.length, side, side, 3]);
      const width = data.length / part.length;
      for (let i = 0; i < part.length; i++) rows.push(data.slice(i * width, (i + 1) * width));
    }
    return rows;
  }

  /** Square boxes that the first network finds on any scale. */
  async #proposed(image: Pixels): Promise<Box[]> {
    const found: Scored[] = [];
    const sums = lineSums(image);
    for (const scale of this.#scales(Math.min(image.width, image.height))) {
      found.push(...best(await this.#proposedAt(image, sums, scale), 0.5));
    }
    return best(found, 0.7).map(({ box }) => square(box));
  }

  /** Scales at which the first network looks at an image of this shorter side. */
  #scales(side: number): number[] {
    const { scale, min_face } = this.#settings;
    const levels = roundHalfEven(-Math.log(side / CELL) / Math.log(scale) - 1);
    return Array.from({ length: Math.max(levels, 0) }, (_, level) => (CELL / min_face) * scale ** level);
  }

  async #proposedAt(image: Pixels, sums: Float32Array, scale: number): Promise<Scored[]> {
    const height = Math.trunc(image.height * scale);
    const width = Math.trunc(image.width * scale);
    const lines = averagedLines(image, sums, height);
    const small = averagedColumns(lines, image.width, height, width);
    const { data, dims } = await this.#networks.pnet(small, [1, height, width, 3]);
    const [down, across] = [dims[2], dims[3]];
    const plane = down * across;
    const least = Math.log(this.#settings.proposed / (1 - this.#settings.proposed));
    const found: Scored[] = [];
    for (let place = 0; place < plane; place++) {
      const logit = data[4 * plane + place];
      if (!(logit > least)) continue;
      const left = (place % across) * STRIDE;
      const top = Math.floor(place / across) * STRIDE;
      const edges = [left + 1, top + 1, left + CELL, top + CELL];
      const box = edges.map((edge, side) => (edge + data[side * plane + place] * (CELL - 1)) / scale) as Box;
      found.push({ box, score: sigmoid(logit) });
    }
    return found;
  }
}

/** Sums of the rows before each row, `(height + 1, 3 width)`. */
function lineSums({ data, width, height }: Pixels): Float32Array {
  const row = 3 * width;
  const sums = new Float32Array((height + 1) * row);
  for (let i = 0; i < height * row; i++) sums[row + i] = sums[i] + data[i];
  return sums;
}

/** Rows averaged to `count` bands of equal height, parts of rows by their share: `(count, 3 width)`. */
function averagedLines({ data, width, height }: Pixels, sums: Float32Array, count: number): Float32Array {
  const row = 3 * width;
  const result = new Float32Array(count * row);
  const factor = fround(count / height);
  const edge = (band: number): [number, number] => {
    const place = band * (height / count);
    const first = Math.min(Math.floor(place), height - 1);
    return [first * row, fround(place - first)];
  };
  for (let band = 0; band < count; band++) {
    const [start, before] = edge(band);
    const [stop, behind] = edge(band + 1);
    for (let i = 0, at = band * row; i < row; i++, at++) {
      const parts = fround(fround(data[stop + i] * behind) - fround(data[start + i] * before));
      result[at] = fround(fround(sums[stop + i] - sums[start + i]) + parts) * factor;
    }
  }
  return result;
}

/** Columns of `(height, 3 size)` averaged to `count` bands: `(height, 3 count)`. */
function averagedColumns(lines: Float32Array, size: number, height: number, count: number): Float32Array {
  const step = size / count;
  const result = new Float32Array(3 * count * height);
  for (let band = 0; band < count; band++) {
    const first = Math.floor(band * step);
    for (let offset = 0; offset <= Math.ceil(step); offset++) {
      const place = first + offset;
      const share = Math.min(place + 1, (band + 1) * step) - Math.max(place, band * step);
      const weight = fround(Math.max(share * (count / size), 0));
      const column = 3 * Math.min(place, size - 1);
      for (let line = 0; line < height; line++) {
        const from = line * 3 * size + column;
        const to = 3 * (line * count + band);
        result[to] += fround(lines[from] * weight);
        result[to + 1] += fround(lines[from + 1] * weight);
        result[to + 2] += fround(lines[from + 2] * weight);
      }
    }
  }
  return result;
}

/** Boxes of an image as `(N, side, side, 3)`, bilinear, grey outside. */
function patches(image: Pixels, boxes: Box[], side: number): Float32Array {
  const { data, width } = image;
  const result = new Float32Array(boxes.length * side * side * 3);
  let at = 0;
  for (const [left, top, right, bottom] of boxes) {
    const rows = samples(top, bottom, image.height, side);
    const columns = samples(left, right, width, side);
    for (const row of rows) {
      for (const column of columns) {
        for (let band = 0; band < 3; band++, at++) {
          if (row.isOutside || column.isOutside) {
            result[at] = OUTSIDE;
            continue;
          }
          const line = (y: number): number => {
            const near = data[3 * (y * width + column.before) + band];
            const far = data[3 * (y * width + column.behind) + band];
            return fround(near + fround(fround(far - near) * column.share));
          };
          const upper = line(row.before);
          result[at] = upper + fround(fround(line(row.behind) - upper) * row.share);
        }
      }
    }
  }
  return result;
}

interface Sample {
  before: number;
  behind: number;
  share: number;
  isOutside: boolean;
}

/** Of `count` samples between two edges: pixel before, pixel behind, share of the latter, and whether outside. */
function samples(first: number, last: number, size: number, count: number): Sample[] {
  const step = (last - first) * ((size - 1) / size / (count - 1));
  return Array.from({ length: count }, (_, i) => {
    const place = first * ((size - 1) / size) + step * i;
    const before = Math.min(Math.max(Math.floor(place), 0), size - 1);
    const behind = Math.min(before + 1, size - 1);
    return { before, behind, share: fround(place - before), isOutside: place < 0 || place > size - 1 };
  });
}

function sigmoid(logit: number): number {
  return 1 / (1 + Math.exp(-logit));
}

/** A box with its edges moved by offsets, in widths and heights. */
function moved(box: Box, offsets: Float32Array): Box {
  const sides = [box[2] - box[0] + 1, box[3] - box[1] + 1];
  return box.map((edge, i) => edge + offsets[i] * sides[i % 2]) as Box;
}

/** The least square around a box, with the same middle. */
function square([left, top, right, bottom]: Box): Box {
  const half = Math.max(right - left, bottom - top) / 2;
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  return [x - half, y - half, x + half, y + half];
}

/**
 * Boxes that have at most the share `most` in common with each better one, best first.
 *
 * The share is that of the union, or of the smaller of both. A box counts as better even where it is left out itself.
 */
function best<T extends Scored>(found: T[], most: number, ofSmaller = false): T[] {
  const order = found.toSorted((a, b) => b.score - a.score).slice(0, MAX_BOXES);
  const areas = order.map(({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top));
  return order.filter(({ box }, i) => {
    for (let j = 0; j < i; j++) {
      const other = order[j].box;
      const across = Math.min(box[2], other[2]) - Math.max(box[0], other[0]);
      const down = Math.min(box[3], other[3]) - Math.max(box[1], other[1]);
      if (across <= 0 || down <= 0) continue;
      const common = across * down;
      const whole = ofSmaller ? Math.min(areas[i], areas[j]) : areas[i] + areas[j] - common;
      if (common > most * whole) return false;
    }
    return true;
  });
}

/** Boxes around the face of an ArcFace crop: of three sizes, at four places, since profiles lie aside. */
function alignedBoxes(): Box[] {
  const boxes: Box[] = [];
  for (const half of [40, 48, 56]) {
    for (const beside of [-12, 12]) {
      for (const middle of [62, 74]) {
        const x = SIZE / 2 + beside;
        boxes.push([x - half, middle - half, x + half, middle + half]);
      }
    }
  }
  return boxes;
}

/** The nearest whole number; of two, the even one. */
export function roundHalfEven(value: number): number {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}
