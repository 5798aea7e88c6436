/** Pictures of the way from a face to its code. */

import type { FoundFace } from "./messages.js";

/** Lightness of the first and the last symbol, in per cent: they differ without their hues, too. */
const LIGHTNESS = [28, 78] as const;
/** Width of a code's grid over its height. */
const GRID_SHAPE = 3;

/** Show a picture, with the landmarks of its face where they are known. */
export function drawPicture(canvas: HTMLCanvasElement, picture: ImageBitmap, points: FoundFace["points"] = []): void {
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext("2d")!;
  context.drawImage(picture, 0, 0);
  const radius = Math.max(picture.width, picture.height) / 90;
  for (const [x, y] of points) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = "#5fd39a";
    context.strokeStyle = "#11141b";
    context.lineWidth = radius / 2;
    context.fill();
    context.stroke();
  }
}

/** Show an aligned face. */
export function drawFace(canvas: HTMLCanvasElement, face: FoundFace): void {
  canvas.width = canvas.height = face.size;
  canvas.getContext("2d")!.putImageData(new ImageData(face.pixels, face.size, face.size), 0, 0);
}

/** Show a code as a grid about three times as wide as high: one cell for each symbol, one colour for each value. */
export function drawCode(canvas: HTMLCanvasElement, symbols: Uint8Array, alphabetSize: number): void {
  const columns = columnsOf(symbols.length);
  canvas.width = columns;
  canvas.height = Math.ceil(symbols.length / columns);
  const context = canvas.getContext("2d")!;
  symbols.forEach((symbol, place) => {
    context.fillStyle = colour(symbol, alphabetSize);
    context.fillRect(place % columns, Math.floor(place / columns), 1, 1);
  });
}

/** Columns of a grid without gaps whose shape is nearest to `GRID_SHAPE`. */
function columnsOf(count: number): number {
  let best = count;
  const error = (columns: number): number => Math.abs(Math.log((columns * columns) / count / GRID_SHAPE));
  for (let columns = 1; columns < count; columns++) {
    if (count % columns === 0 && error(columns) < error(best)) best = columns;
  }
  return best;
}

function colour(symbol: number, alphabetSize: number): string {
  const [dark, light] = LIGHTNESS;
  const share = symbol / Math.max(alphabetSize - 1, 1);
  return `hsl(${Math.round(230 - 190 * share)} 70% ${Math.round(dark + (light - dark) * share)}%)`;
}
