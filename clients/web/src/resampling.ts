/** Shrinking and sampling of RGB pixels, with the same results as Pillow's. */

import type { Pixels } from "./images.js";

const PRECISION_BITS = 22;
const SUPPORT = 2;

/** Blocks of `across` x `down` pixels averaged; those at the right and lower edge may be smaller (`Image.reduce`). */
export function reduced(image: Pixels, across: number, down: number): Pixels {
  const width = Math.ceil(image.width / across);
  const height = Math.ceil(image.height / down);
  const data = new Uint8Array(3 * width * height);
  for (let row = 0; row < height; row++) {
    const bottom = Math.min((row + 1) * down, image.height);
    for (let column = 0; column < width; column++) {
      const right = Math.min((column + 1) * across, image.width);
      let [red, green, blue] = [0, 0, 0];
      for (let y = row * down; y < bottom; y++) {
        for (let at = 3 * (y * image.width + column * across); at < 3 * (y * image.width + right); at += 3) {
          red += image.data[at];
          green += image.data[at + 1];
          blue += image.data[at + 2];
        }
      }
      const count = (bottom - row * down) * (right - column * across);
      const multiplier = Math.floor(2 ** 24 / count);
      const half = Math.floor(count / 2);
      const place = 3 * (row * width + column);
      data[place] = Math.floor(((red + half) * multiplier) / 2 ** 24);
      data[place + 1] = Math.floor(((green + half) * multiplier) / 2 ** 24);
      data[place + 2] = Math.floor(((blue + half) * multiplier) / 2 ** 24);
    }
  }
  return { data, width, height };
}

/** A square of `side` pixels: pixel centre (x, y) shows place `turn` (x, y) + `shift`, bilinear, black outside. */
export function sampled(
  image: Pixels,
  turn: [[number, number], [number, number]],
  shift: [number, number],
  side: number,
): Uint8Array {
  const { data, width, height } = image;
  const result = new Uint8Array(3 * side * side);
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const [u, v] = [column + 0.5, row + 0.5];
      let x = turn[0][0] * u + turn[0][1] * v + shift[0];
      let y = turn[1][0] * u + turn[1][1] * v + shift[1];
      if (x < 0 || x >= width || y < 0 || y >= height) continue;
      x -= 0.5;
      y -= 0.5;
      const [left, top] = [Math.floor(x), Math.floor(y)];
      const [across, down] = [x - left, y - top];
      const near = 3 * Math.max(left, 0);
      const far = 3 * Math.min(left + 1, width - 1);
      const upper = 3 * width * Math.max(top, 0);
      const lower = 3 * width * Math.min(top + 1, height - 1);
      const place = 3 * (row * side + column);
      for (let band = 0; band < 3; band++) {
        const above = data[upper + near + band] + (data[upper + far + band] - data[upper + near + band]) * across;
        const below = data[lower + near + band] + (data[lower + far + band] - data[lower + near + band]) * across;
        result[place + band] = above + (below - above) * down;
      }
    }
  }
  return result;
}

/** The picture at another size, bicubic, after averaging whole blocks (`Image.resize` with `reducing_gap=1.0`). */
export function resized(image: Pixels, width: number, height: number): Pixels {
  const across = Math.floor(image.width / width) || 1;
  const down = Math.floor(image.height / height) || 1;
  let picture = image;
  let box: [number, number] = [image.width, image.height];
  if (across > 1 || down > 1) {
    picture = reduced(image, across, down);
    box = [Math.fround(image.width / across), Math.fround(image.height / down)];
  }
  const lines = turnedResample(picture, box[0], width);
  return turnedResample(lines, box[1], height);
}

/** Rows resampled to `size` columns, and the picture mirrored at its diagonal, so that twice does both axes. */
function turnedResample(image: Pixels, extent: number, size: number): Pixels {
  const { data, width, height } = image;
  const result = { data: new Uint8Array(3 * size * height), width: height, height: size };
  for (let column = 0; column < size; column++) {
    const [first, weights] = weightsOf(width, extent, size, column);
    for (let row = 0; row < height; row++) {
      for (let band = 0; band < 3; band++) {
        let sum = 2 ** (PRECISION_BITS - 1);
        for (let i = 0; i < weights.length; i++) sum += data[3 * (row * width + first + i) + band] * weights[i];
        const value = Math.floor(sum / 2 ** PRECISION_BITS);
        result.data[3 * (column * height + row) + band] = Math.min(Math.max(value, 0), 255);
      }
    }
  }
  return result;
}

/** First pixel, and whole-number weights of it and those behind it, for one place of a resampled line. */
function weightsOf(width: number, extent: number, size: number, place: number): [number, Int32Array] {
  const scale = extent / size;
  const stretch = Math.max(scale, 1);
  const support = SUPPORT * stretch;
  const centre = (place + 0.5) * scale;
  const first = Math.max(Math.trunc(centre - support + 0.5), 0);
  const last = Math.min(Math.trunc(centre + support + 0.5), width);
  const raw = Array.from({ length: last - first }, (_, i) => bicubic((i + first - centre + 0.5) * (1 / stretch)));
  const sum = raw.reduce((all, weight) => all + weight, 0);
  const whole = raw.map((weight) => {
    const scaled = (weight / sum) * 2 ** PRECISION_BITS;
    return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
  });
  return [first, Int32Array.from(whole)];
}

function bicubic(at: number): number {
  const x = Math.abs(at);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0;
}
