// The picture and its boxes on the screen.

import { drawDetections, sizesFor } from "./draw.js";
import { drawOver, drawUnder } from "./origin.js";

const HIGHEST = 0.72; // of the window
const HIGHEST_BESIDE_WORDS = 0.4; // where it stays in sight above the words on where a detection comes from
const NARROW = window.matchMedia("(max-width: 900px)"); // as in page.css
const ENLARGED = 3; // small pictures at most so much

export class Stage {
  /** onPoint: called with the item under a click, null where there is none. */
  constructor(frame, canvas, onPoint) {
    Object.assign(this, { frame, canvas, bitmap: null, width: 0, height: 0, drawn: null, backdrop: null });
    new ResizeObserver(() => this.repaint()).observe(frame);
    canvas.addEventListener("click", (event) => onPoint(this.itemAt(event)));
    canvas.addEventListener("pointermove", (event) => {
      canvas.classList.toggle("pointing", this.itemAt(event) !== null);
    });
  }

  /** bitmap: null for a picture that the browser cannot show, of which only the size is known. */
  show(bitmap, width, height) {
    if (this.bitmap !== bitmap) this.bitmap?.close();
    Object.assign(this, { bitmap, width, height, drawn: null, backdrop: null });
    this.canvas.hidden = false;
    this.repaint();
  }

  /** what: {items, colours, chosen}, and {origin, layers} of the chosen one, which is then drawn alone */
  paint(what) {
    this.drawn = what;
    this.repaint();
  }

  repaint() {
    if (this.width === 0) return;
    const room = this.frame.clientWidth;
    const highest = NARROW.matches && this.drawn?.origin ? HIGHEST_BESIDE_WORDS : HIGHEST;
    const fit = Math.min(room / this.width, (highest * window.innerHeight) / this.height, ENLARGED);
    const dense = window.devicePixelRatio || 1;
    const [wide, high] = [Math.max(1, Math.round(this.width * fit)), Math.max(1, Math.round(this.height * fit))];
    const size = { width: Math.round(wide * dense), height: Math.round(high * dense) };
    if (this.canvas.width !== size.width || this.canvas.height !== size.height) {
      Object.assign(this.canvas, size);
      Object.assign(this.canvas.style, { width: `${wide}px`, height: `${high}px` });
      this.backdrop = null;
    }
    this.backdrop ??= this.paintedBackdrop(size);
    const context = this.canvas.getContext("2d");
    context.drawImage(this.backdrop, 0, 0);
    if (this.drawn !== null) {
      const sizes = { line: Math.round(3 * dense), letters: Math.round(13 * dense) };
      const { items, chosen, origin = null, layers } = this.drawn;
      const scale = size.width / this.width;
      if (origin !== null) drawUnder(context, origin, scale, sizes.line, layers);
      drawDetections(context, origin === null ? items : [chosen], { ...this.drawn, scale, sizes });
      if (origin !== null) drawOver(context, origin, scale, sizes.line, layers);
    }
  }

  paintedBackdrop(size) {
    const canvas = Object.assign(document.createElement("canvas"), size);
    const context = canvas.getContext("2d");
    context.fillStyle = "#5c6066";
    context.fillRect(0, 0, size.width, size.height);
    context.imageSmoothingQuality = "high";
    if (this.bitmap !== null) context.drawImage(this.bitmap, 0, 0, size.width, size.height);
    return canvas;
  }

  /** The smallest item under a pointer. */
  itemAt(event) {
    if (this.drawn === null) return null;
    const scale = this.width / this.canvas.clientWidth;
    const [x, y] = [event.offsetX * scale, event.offsetY * scale];
    const area = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
    const under = this.drawn.items.filter(({ box: [x0, y0, x1, y1] }) => x >= x0 && x <= x1 && y >= y0 && y <= y1);
    return under.sort((one, other) => area(one) - area(other))[0] ?? null;
  }

  /** A detection and some of its surroundings, as large as `canvas`. */
  crop(canvas, { box: [x0, y0, x1, y1] }) {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (this.bitmap === null) return;
    const side = Math.max(x1 - x0, y1 - y0, 1) * 1.2;
    const [left, top] = [(x0 + x1 - side) / 2, (y0 + y1 - side) / 2];
    context.imageSmoothingQuality = "high";
    context.drawImage(this.bitmap, left, top, side, side, 0, 0, canvas.width, canvas.height);
  }

  /** The whole picture in its own size with its boxes, as a file. */
  async toBlob(type) {
    const canvas = Object.assign(document.createElement("canvas"), { width: this.width, height: this.height });
    const context = canvas.getContext("2d");
    if (context === null) return null;
    context.fillStyle = "#5c6066";
    context.fillRect(0, 0, this.width, this.height);
    if (this.bitmap !== null) context.drawImage(this.bitmap, 0, 0);
    const { items, colours } = this.drawn;
    drawDetections(context, items, { scale: 1, colours, sizes: sizesFor(this.width, this.height) });
    return new Promise((done) => canvas.toBlob(done, type, 0.92));
  }
}
