// Boxes and labels on a canvas, as `singleshot detect` draws them.

const UNKNOWN = "#8a8a8a";
const MOST_LETTERS = 40;

/** A name as it may be shown: no control or direction characters, not longer than `most`. */
export function printable(name, most = MOST_LETTERS) {
  const letters = Array.from(String(name).replace(/\p{C}/gu, "�"));
  return letters.length > most ? letters.slice(0, most - 1).join("") + "…" : letters.join("");
}

/** The colour of a class as the service gives it. */
export function colourOf(colours, name) {
  const colour = Object.hasOwn(colours, name) ? colours[name] : UNKNOWN;
  return /^#[0-9a-f]{6}$/.test(colour) ? colour : UNKNOWN;
}

/** Black or white, whichever has the higher contrast (WCAG 2 relative luminance). */
export function textColour(background) {
  const [red, green, blue] = [1, 3, 5].map((start) => {
    const value = parseInt(background.slice(start, start + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > Math.sqrt(0.0525) - 0.05 ? "#000000" : "#ffffff";
}

/** Widths of a picture that is saved: they grow with it. */
export function sizesFor(width, height) {
  const shorter = Math.min(width, height);
  return { line: Math.max(2, Math.round(shorter / 160)), letters: Math.min(Math.max(13, Math.round(shorter / 28)), 160) };
}

/**
 * Draws detections, the best on top.
 * items: [{box, score, name}], the best first; scale: canvas pixels for one of the picture; chosen: one of the items or
 * null; sizes: {line, letters} in canvas pixels.
 */
export function drawDetections(context, items, { scale, colours, chosen = null, sizes }) {
  const placed = [];
  const order = chosen === null ? items : [chosen, ...items.filter((item) => item !== chosen)];
  for (const item of [...order].reverse()) {
    context.globalAlpha = chosen === null || item === chosen ? 1 : 0.4;
    drawBox(context, item, colourOf(colours, item.name), scale, item === chosen ? sizes.line * 1.75 : sizes.line);
  }
  context.font = `600 ${sizes.letters}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (const item of order) {
    context.globalAlpha = chosen === null || item === chosen ? 1 : 0.4;
    drawLabel(context, item, colourOf(colours, item.name), scale, sizes, placed);
  }
  context.globalAlpha = 1;
}

function drawBox(context, { box }, colour, scale, line) {
  const { width, height } = context.canvas;
  const [x0, y0, x1, y1] = [
    Math.max(box[0] * scale, 0), Math.max(box[1] * scale, 0),
    Math.min(box[2] * scale, width), Math.min(box[3] * scale, height),
  ];
  const rim = Math.max(1, line / 4);
  for (const [stroke, thick] of [[textColour(colour), line + 2 * rim], [colour, line]]) {
    context.strokeStyle = stroke;
    context.lineWidth = thick;
    context.strokeRect(x0 + line / 2, y0 + line / 2, Math.max(x1 - x0 - line, 1), Math.max(y1 - y0 - line, 1));
  }
}

/** At the first place that no other label has: over the box, in its corner, under it; the score alone where all are taken. */
function drawLabel(context, { box, score, name }, colour, scale, { line, letters }, placed) {
  const pad = Math.round(letters / 3);
  const height = Math.round(letters * 1.4);
  for (const text of [`${printable(name)} ${score.toFixed(2)}`, score.toFixed(2)]) {
    const width = Math.ceil(context.measureText(text).width) + 2 * pad;
    const left = Math.min(Math.max(box[0] * scale, 0), Math.max(context.canvas.width - width, 0));
    const tops = [box[1] * scale - height, box[1] * scale + line, box[3] * scale, box[3] * scale - height - line];
    const top = tops.find((y) => y >= 0 && y + height <= context.canvas.height && isFree(placed, left, y, width, height));
    if (top === undefined) continue;
    placed.push([left, top, width, height]);
    context.fillStyle = colour;
    context.fillRect(left, top, width, height);
    context.fillStyle = textColour(colour);
    context.fillText(text, left + pad, top + height / 2);
    return;
  }
}

function isFree(placed, left, top, width, height) {
  return placed.every(([x, y, w, h]) => left >= x + w || x >= left + width || top >= y + h || y >= top + height);
}
