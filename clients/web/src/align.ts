/** Five-point alignment to the template of a recogniser, and the sharpness of the aligned face: `iom.photos.align`. */

import { FaceError } from "./errors.js";
import type { Pixels } from "./images.js";
import { reduced, sampled } from "./resampling.js";

/** Side in pixels of the ArcFace crop. */
export const SIZE = 112;
const TOLERANCE = 1e-9;
const LUMINANCE = [0.299, 0.587, 0.114];

export type Point = [number, number];
/** Rows (a, b, c), (d, e, f): (x, y) goes to (a x + b y + c, d x + e y + f). */
export type Matrix = [[number, number, number], [number, number, number]];

/** Where a recogniser expects the face: in a chip of `size` pixels a side, at `scale` (x, y) + `shift`. */
export interface Template {
  name: string;
  size: number;
  scale: number;
  shift: Point;
  /** Landmarks in the ArcFace crop. */
  landmarks: Point[];
}

/** Least-squares similarity transform from points to the landmarks of the template in the ArcFace crop. */
export function similarity(points: readonly Point[], landmarks: readonly Point[]): Matrix {
  if (points.length !== landmarks.length || !points.flat().every(Number.isFinite)) {
    throw new FaceError("landmarks: expected five (x, y) of finite numbers, received something else", "bad_landmarks");
  }
  const [given, mean] = centredPoints(points);
  const [target, targetMean] = centredPoints(landmarks);
  const spread = given.reduce((sum, [x, y]) => sum + x * x + y * y, 0);
  if (spread <= TOLERANCE * Math.max(1, Math.hypot(...mean)) ** 2) {
    throw new FaceError("landmarks: expected five different ones, received one point", "bad_landmarks");
  }
  let [a, b] = [0, 0];
  given.forEach(([x, y], i) => {
    const [u, v] = target[i];
    a += x * u + y * v;
    b += x * v - y * u;
  });
  [a, b] = [a / spread, b / spread];
  if (Math.hypot(a, b) * Math.sqrt(spread) <= TOLERANCE) {
    throw new FaceError("landmarks: they define no rotation; are they of a face?", "bad_landmarks");
  }
  const shift = [targetMean[0] - (a * mean[0] - b * mean[1]), targetMean[1] - (a * mean[1] + b * mean[0])];
  return [
    [a, -b, shift[0]],
    [b, a, shift[1]],
  ];
}

function centredPoints(points: readonly Point[]): [Point[], Point] {
  const sum = points.reduce(([x, y], point) => [x + point[0], y + point[1]], [0, 0]);
  const mean: Point = [sum[0] / points.length, sum[1] / points.length];
  return [points.map(([x, y]) => [x - mean[0], y - mean[1]]), mean];
}

/** Side in pixels of the square of the photograph that becomes the ArcFace crop. */
export function faceSize(points: readonly Point[], landmarks: readonly Point[]): number {
  const matrix = similarity(points, landmarks);
  return SIZE / Math.hypot(matrix[0][0], matrix[1][0]);
}

/** The face as the template has it, RGB `(size, size, 3)`; black where the photograph ends. */
export function align(image: Pixels, points: readonly Point[], template: Omit<Template, "name">): Uint8Array {
  const { size: side, scale, shift: moved } = template;
  const [first, second] = similarity(points, template.landmarks);
  const [a, b] = [scale * first[0], scale * second[0]];
  const [x, y] = [scale * first[2] + moved[0], scale * second[2] + moved[1]];
  const square = a * a + b * b;
  let turn: [Point, Point] = [
    [a / square, b / square],
    [-b / square, a / square],
  ];
  const back: Point = [-(turn[0][0] * x + turn[0][1] * y), -(turn[1][0] * x + turn[1][1] * y)];
  const factor = Math.max(1, Math.floor(Math.min(1 / Math.hypot(a, b), image.width, image.height)));
  let shift = cornerShift(turn, back);
  // The part that is sampled, in whole blocks.
  const size: Point = [image.width, image.height];
  const [low, high]: [Point, Point] = [
    [0, 0],
    [0, 0],
  ];
  for (const axis of [0, 1] as const) {
    const places = [
      [0, 0],
      [0, side],
      [side, 0],
      [side, side],
    ].map(([u, v]) => turn[axis][0] * u + turn[axis][1] * v + shift[axis]);
    const clipped = (value: number): number => Math.min(Math.max(value, 0), size[axis]);
    low[axis] = Math.floor(Math.trunc(clipped(Math.min(...places) - 2 * factor)) / factor) * factor;
    high[axis] = Math.min(Math.ceil(clipped(Math.max(...places) + 2 * factor) / factor) * factor, size[axis]);
  }
  if (low[0] >= high[0] || low[1] >= high[1]) return new Uint8Array(3 * side * side);
  let picture = cut(image, low, high);
  shift = [shift[0] - low[0], shift[1] - low[1]];
  if (factor >= 2) {
    picture = reduced(picture, factor, factor);
    turn = [
      [turn[0][0] / factor, turn[0][1] / factor],
      [turn[1][0] / factor, turn[1][1] / factor],
    ];
    shift = [shift[0] / factor, shift[1] / factor];
  }
  return sampled(picture, turn, shift, side);
}

/** The shift between corners of first pixels, half a pixel before their centres. */
function cornerShift(turn: [Point, Point], shift: Point): Point {
  return [
    shift[0] + 0.5 - (turn[0][0] * 0.5 + turn[0][1] * 0.5),
    shift[1] + 0.5 - (turn[1][0] * 0.5 + turn[1][1] * 0.5),
  ];
}

function cut({ data, width }: Pixels, [left, top]: Point, [right, bottom]: Point): Pixels {
  const part = { data: new Uint8Array(3 * (right - left) * (bottom - top)), width: right - left, height: bottom - top };
  for (let row = top; row < bottom; row++) {
    part.data.set(data.subarray(3 * (row * width + left), 3 * (row * width + right)), 3 * (row - top) * part.width);
  }
  return part;
}

/** The chip of a template, made from an ArcFace crop `(112, 112, 3)`; what lies beyond the crop repeats its edge. */
export function chipOfCrop(crop: Uint8Array, { name, size, scale, shift }: Template): Uint8Array {
  if (name === "arcface") return crop;
  const beyond = Math.max(0, Math.abs(shift[0]), Math.abs(shift[1]), size - scale * SIZE - Math.min(...shift));
  const reach = Math.ceil(beyond / scale);
  const side = SIZE + 2 * reach;
  const padded = { data: new Uint8Array(3 * side * side), width: side, height: side };
  const inside = (place: number): number => Math.min(Math.max(place - reach, 0), SIZE - 1);
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const from = 3 * (inside(row) * SIZE + inside(column));
      padded.data.set(crop.subarray(from, from + 3), 3 * (row * side + column));
    }
  }
  const turn: [Point, Point] = [
    [1 / scale, 0],
    [0, 1 / scale],
  ];
  return sampled(padded, turn, cornerShift(turn, [reach - shift[0] / scale, reach - shift[1] / scale]), size);
}

/** Variance of the Laplacian of the luminance of an ArcFace crop without its edge: low where it is blurred. */
export function sharpnessOf(crop: Uint8Array, edge: number): number {
  const side = SIZE - 2 * edge;
  const grey = new Float64Array(side * side);
  for (let i = 0; i < grey.length; i++) {
    const at = 3 * ((Math.floor(i / side) + edge) * SIZE + (i % side) + edge);
    grey[i] = crop[at] * LUMINANCE[0] + crop[at + 1] * LUMINANCE[1] + crop[at + 2] * LUMINANCE[2];
  }
  const values: number[] = [];
  for (let row = 1; row < side - 1; row++) {
    for (let column = 1; column < side - 1; column++) {
      const at = row * side + column;
      values.push(grey[at - side] + grey[at + side] + grey[at - 1] + grey[at + 1] - 4 * grey[at]);
    }
  }
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
}
