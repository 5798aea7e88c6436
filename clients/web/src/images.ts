/** Pictures of the browser, and RGB pixels of them, upright. */

/** What pictures come as. Plain `{data, width, height}` is RGBA, as of a canvas. */
export type Picture =
  | Blob
  | ImageBitmap
  | ImageData
  | HTMLImageElement
  | HTMLVideoElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | { data: Uint8Array | Uint8ClampedArray; width: number; height: number };

/** RGB pixels, `(height, width, 3)`. */
export interface Pixels {
  data: Uint8Array;
  width: number;
  height: number;
}

/** One face of a picture: landmarks `(x, y)` in the order of the template, and the score of the detector in 0..1. */
export interface Face {
  points: [number, number][];
  score: number;
}

/** An aligned face as the network takes it: RGB `(size, size, 3)`. */
export interface Chip {
  pixels: Uint8Array;
  size: number;
}
