/** Pictures of the browser, and RGB pixels of them, upright. */

import type { Point } from "./align.js";
import { FaceError } from "./errors.js";

/** What pictures come as. Plain `{data, width, height}` is RGBA, as of a canvas. */
export type Picture =
  | Blob
  | ImageBitmap
  | ImageData
  | HTMLImageElement
  | HTMLVideoElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | PlainPixels;

/** RGBA pixels `(height, width, 4)` as of a canvas. */
export interface PlainPixels {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
}

/** RGB pixels, `(height, width, 3)`. */
export interface Pixels {
  data: Uint8Array;
  width: number;
  height: number;
}

/** One face of a picture: landmarks `(x, y)` in the order of the template, and the score of the detector in 0..1. */
export interface Face {
  points: Point[];
  score: number;
}

/** An aligned face as the network takes it: RGB `(size, size, 3)`. */
export interface Chip {
  pixels: Uint8Array;
  size: number;
}

type Drawable = Exclude<Picture, Blob | PlainPixels>;

/**
 * Upright RGB pixels of a picture; what is transparent lies on white.
 *
 * A file is decoded without a conversion of colours, so that the pixels are those that other programs see.
 */
export async function pixelsOf(picture: Picture, maxMegapixels: number): Promise<Pixels> {
  if (typeof picture !== "object" || picture === null) {
    throw new FaceError(
      `picture: expected an image, a canvas, a video or a file, received ${typeof picture}`,
      "wrong_type",
    );
  }
  if ("data" in picture) return fromRgba(picture, maxMegapixels);
  if (!(picture instanceof Blob)) return drawn(picture, maxMegapixels);
  if (picture.size === 0) throw new FaceError("picture: expected a photograph, received an empty file", "empty");
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(picture, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch (error) {
    throw new FaceError("picture: the browser cannot decode it; is it a photograph?", "damaged", { cause: error });
  }
  try {
    return drawn(bitmap, maxMegapixels);
  } finally {
    bitmap.close();
  }
}

function drawn(picture: Drawable, maxMegapixels: number): Pixels {
  const [width, height] = sizeOf(picture);
  checkSize(width, height, maxMegapixels);
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  if (pen === null) throw new FaceError("picture: the browser gives no canvas to read it from", "too_large");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(picture as CanvasImageSource, 0, 0, width, height);
  return fromRgba(pen.getImageData(0, 0, width, height), maxMegapixels);
}

function sizeOf(picture: Drawable): [number, number] {
  if ("videoWidth" in picture) return [picture.videoWidth, picture.videoHeight];
  if ("naturalWidth" in picture) return [picture.naturalWidth, picture.naturalHeight];
  return [picture.width, picture.height];
}

function fromRgba({ data, width, height }: PlainPixels, maxMegapixels: number): Pixels {
  checkSize(width, height, maxMegapixels);
  const isBytes = data instanceof Uint8Array || data instanceof Uint8ClampedArray;
  if (!isBytes || data.length !== 4 * width * height) {
    throw new FaceError(
      `picture: expected RGBA bytes of ${width} x ${height} pixels, received another number`,
      "wrong_type",
    );
  }
  const result = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    const share = data[from + 3] / 255;
    for (let band = 0; band < 3; band++) {
      result[to + band] = share === 1 ? data[from + band] : Math.round(255 + (data[from + band] - 255) * share);
    }
  }
  return { data: result, width, height };
}

function checkSize(width: number, height: number, maxMegapixels: number): void {
  if (!(Number.isSafeInteger(width) && Number.isSafeInteger(height) && width > 0 && height > 0)) {
    throw new FaceError("picture: expected pixels, received an image without any; is it loaded?", "empty");
  }
  const megapixels = (width * height) / 1e6;
  if (megapixels > maxMegapixels) {
    throw new FaceError(
      `picture: expected at most ${maxMegapixels} megapixels, received ${megapixels.toFixed(0)}`,
      "too_large",
    );
  }
}
