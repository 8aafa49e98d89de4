// The image with its boxes, and what a pointer does to them.

import { colourOf, printable, textColour } from "./draw.js";

const HIGHEST = 0.7; // of the window
const ENLARGED = 4; // small images at most so much
const DRAWN = 6; // pixels of the screen that a new box has at least
const REACH = { mouse: 9, pen: 12, touch: 24 }; // around a handle, pixels of the screen
const CORNERS = [[0, 1], [2, 1], [0, 3], [2, 3]]; // of a box, as the indices of its x and y

export class Canvas {
  /** on: {choose(item), draw(box), change(key, {start, dx, dy} of a move or {start, box} of a resize), settle()} */
  constructor(frame, canvas, on) {
    Object.assign(this, { frame, canvas, on, bitmap: null, width: 0, height: 0, zoom: 1, drag: null });
    this.shown = { objects: [], proposals: [], suspects: [], chosen: null, colours: {} };
    new ResizeObserver(() => this.repaint()).observe(frame);
    canvas.addEventListener("pointerdown", (event) => this.start(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.end(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
  }

  load(bitmap, width, height) {
    this.bitmap?.close();
    Object.assign(this, { bitmap, width, height, drag: null });
    this.canvas.hidden = false;
  }

  /** shown: {objects, proposals, suspects, chosen, colours}; chosen: one of the objects or proposals, or null. */
  paint(shown) {
    this.shown = shown;
    this.repaint();
  }

  setZoom(zoom) {
    this.zoom = zoom;
    this.repaint();
    this.showChosen();
  }

  showChosen() {
    const chosen = this.shown.chosen;
    if (chosen === null || this.zoom === 1) return;
    const [x, y] = [(chosen.box[0] + chosen.box[2]) / 2, (chosen.box[1] + chosen.box[3]) / 2];
    this.frame.scrollTo(x * this.scale - this.frame.clientWidth / 2, y * this.scale - this.frame.clientHeight / 2);
  }

  get fit() {
    const room = this.frame.clientWidth;
    return Math.min(room / this.width, (HIGHEST * window.innerHeight) / this.height, ENLARGED);
  }

  /** Pixels of the screen for one of the image. */
  get scale() {
    return this.fit * this.zoom;
  }

  repaint() {
    if (this.width === 0) return;
    const dense = window.devicePixelRatio || 1;
    const [wide, high] = [Math.max(1, Math.round(this.width * this.scale)), Math.max(1, Math.round(this.height * this.scale))];
    const size = { width: Math.round(wide * dense), height: Math.round(high * dense) };
    if (this.canvas.width !== size.width || this.canvas.height !== size.height) {
      Object.assign(this.canvas, size);
      Object.assign(this.canvas.style, { width: `${wide}px`, height: `${high}px` });
    }
    const context = this.canvas.getContext("2d");
    context.fillStyle = "#5c6066";
    context.fillRect(0, 0, size.width, size.height);
    context.imageSmoothingEnabled = this.scale < 3;
    context.imageSmoothingQuality = "high";
    if (this.bitmap !== null) context.drawImage(this.bitmap, 0, 0, size.width, size.height);
    this.paintBoxes(context, this.scale * dense, dense);
  }

  paintBoxes(context, scale, dense) {
    const { objects, proposals, suspects, chosen, colours } = this.shown;
    const line = 2 * dense;
    for (const item of [...proposals, ...objects]) {
      const colour = colourOf(colours, item.name);
      context.globalAlpha = chosen === null || item === chosen ? 1 : 0.8;
      const dashes = "score" in item ? [6 * dense, 4 * dense] : [];
      stroke(context, item.box, scale, colour, item === chosen ? 1.5 * line : line, dashes);
      const text = "score" in item ? `${printable(item.name)} ${item.score.toFixed(2)}?` : printable(item.name);
      tag(context, text, item.box[0] * scale, item.box[1] * scale, colour, dense);
    }
    context.globalAlpha = 1;
    for (const { box, kind } of suspects) {
      stroke(context, box, scale, "#ffd400", 2 * line, [2 * dense, 5 * dense]);
      tag(context, `${kind}?`, box[0] * scale, box[3] * scale + 18 * dense, "#ffd400", dense);
    }
    if (this.drag?.box) stroke(context, this.drag.box, scale, "#ffffff", line, [4 * dense, 4 * dense]);
    if (chosen !== null && !("score" in chosen) && chosen.fixed === "") {
      for (const [i, j] of CORNERS) handle(context, chosen.box[i] * scale, chosen.box[j] * scale, 5 * dense);
    }
  }

  /** The pixel of the image under a pointer. */
  point(event) {
    return [event.offsetX / this.scale, event.offsetY / this.scale];
  }

  start(event) {
    if (event.button !== 0 || this.drag !== null) return;
    this.canvas.setPointerCapture(event.pointerId);
    const from = this.point(event);
    const chosen = this.shown.chosen;
    const isFree = chosen !== null && !("score" in chosen) && chosen.fixed === "";
    const corner = isFree ? this.cornerAt(chosen.box, from, REACH[event.pointerType] ?? REACH.mouse) : null;
    const inside = isFree && contains(chosen.box, from);
    const kind = corner !== null ? "resize" : inside ? "move" : "draw";
    this.drag = { kind, corner, from, item: kind === "draw" ? null : chosen, start: chosen?.box, moved: false, box: null };
  }

  cornerAt(box, [x, y], reach) {
    const far = ([i, j]) => Math.hypot(box[i] - x, box[j] - y) * this.scale;
    const nearest = [...CORNERS].sort((one, other) => far(one) - far(other))[0];
    return far(nearest) <= reach ? nearest : null;
  }

  move(event) {
    if (this.drag === null) return;
    const { kind, corner, from, item, start } = this.drag;
    const [x, y] = this.point(event);
    const [dx, dy] = [x - from[0], y - from[1]];
    if (!this.drag.moved && Math.hypot(dx, dy) * this.scale < 3) return;
    this.drag.moved = true;
    if (kind === "draw") {
      this.drag.box = [Math.min(x, from[0]), Math.min(y, from[1]), Math.max(x, from[0]), Math.max(y, from[1])];
      this.repaint();
    } else if (kind === "move") {
      this.on.change(item.key, { start, dx, dy });
    } else {
      const box = [...start];
      box[corner[0]] += dx;
      box[corner[1]] += dy;
      this.on.change(item.key, { start, box });
    }
  }

  end(event) {
    if (this.drag === null) return;
    const { kind, box, moved } = this.drag;
    const at = this.point(event);
    this.drag = null;
    if (!moved) this.on.choose(this.itemAt(at));
    else if (kind === "draw" && Math.min(box[2] - box[0], box[3] - box[1]) * this.scale >= DRAWN) this.on.draw(box);
    else if (kind !== "draw") this.on.settle();
    this.repaint();
  }

  cancel() {
    this.drag = null;
    this.repaint();
  }

  /** The smallest item there; of those, at a second click on the same place, the next larger. */
  itemAt(point) {
    const area = ({ box: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
    const under = [...this.shown.objects, ...this.shown.proposals].filter(({ box }) => contains(box, point));
    under.sort((one, other) => area(one) - area(other));
    const now = under.indexOf(this.shown.chosen);
    return under[(now + 1) % Math.max(under.length, 1)] ?? null;
  }
}

const contains = ([x0, y0, x1, y1], [x, y]) => x >= x0 && x <= x1 && y >= y0 && y <= y1;

function stroke(context, [x0, y0, x1, y1], scale, colour, line, dashes) {
  for (const [paint, thick] of [[textColour(colour), line * 1.6], [colour, line]]) {
    context.setLineDash(dashes);
    context.strokeStyle = paint;
    context.lineWidth = thick;
    context.strokeRect(x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
  }
  context.setLineDash([]);
}

function tag(context, text, x, y, colour, dense) {
  context.font = `600 ${12 * dense}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const [width, height] = [Math.ceil(context.measureText(text).width) + 8 * dense, 17 * dense];
  const left = Math.min(Math.max(x, 0), Math.max(context.canvas.width - width, 0));
  const top = Math.min(Math.max(y - height, 0), context.canvas.height - height);
  context.fillStyle = colour;
  context.fillRect(left, top, width, height);
  context.fillStyle = textColour(colour);
  context.fillText(text, left + 4 * dense, top + height / 2);
}

function handle(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = "#ffffff";
  context.fill();
  context.strokeStyle = "#000000";
  context.lineWidth = radius / 3;
  context.stroke();
}
