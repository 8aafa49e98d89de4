// The objects of one image while they are changed: a list of plain values for each step, so that every step can be undone.

let lastKey = 0;

/** An object that stays the same one through all changes: key is its own. */
const keyed = (object) => ({ ...object, key: ++lastKey });

/** How much two boxes overlap: the area of both by that of either. */
export function overlap([a0, b0, a1, b1], [c0, d0, c1, d1]) {
  const both = Math.max(0, Math.min(a1, c1) - Math.max(a0, c0)) * Math.max(0, Math.min(b1, d1) - Math.max(b0, d0));
  return both / Math.max((a1 - a0) * (b1 - b0) + (c1 - c0) * (d1 - d0) - both, 1e-9);
}

export class Labels {
  /** onChange: called after each change. */
  constructor(onChange) {
    Object.assign(this, { onChange, steps: [[]], at: 0, saved: [], last: "", width: 1, height: 1 });
  }

  load({ width, height, objects }) {
    const now = objects.map(keyed);
    Object.assign(this, { width, height, steps: [now], at: 0, saved: now, last: "" });
    this.onChange();
  }

  get objects() {
    return this.steps[this.at];
  }

  get isChanged() {
    const plain = (objects) => JSON.stringify(objects.map(({ number, name, box }) => [number, name, box]));
    return this.objects !== this.saved && plain(this.objects) !== plain(this.saved);
  }

  get canUndo() {
    return this.at > 0;
  }

  get canRedo() {
    return this.at < this.steps.length - 1;
  }

  find(key) {
    return this.objects.find((object) => object.key === key) ?? null;
  }

  /** what: steps of the same kind that follow each other, as arrow keys make them, are undone at once. */
  step(objects, what = "") {
    const joins = what !== "" && what === this.last && this.at === this.steps.length - 1 && this.at > 0;
    this.steps = [...this.steps.slice(0, joins ? this.at : this.at + 1), objects];
    this.at = this.steps.length - 1;
    this.last = what;
    this.onChange();
  }

  /** Give the new objects' keys. */
  add(some) {
    const made = some.map(({ name, box }) =>
      keyed({ number: null, name, box: this.within(box), difficult: false, crowd: false, fixed: "" }),
    );
    this.step([...this.objects, ...made]);
    return made.map(({ key }) => key);
  }

  change(key, values, what = "") {
    this.step(this.objects.map((object) => (object.key === key ? { ...object, ...values } : object)), what);
  }

  remove(key) {
    this.step(this.objects.filter((object) => object.key !== key));
  }

  undo() {
    this.at = Math.max(this.at - 1, 0);
    this.last = "";
    this.onChange();
  }

  redo() {
    this.at = Math.min(this.at + 1, this.steps.length - 1);
    this.last = "";
    this.onChange();
  }

  /** A box in whole pixels inside the image, one pixel large at least; its sides in their order. */
  within([x0, y0, x1, y1]) {
    const [left, right] = sides(x0, x1, this.width);
    const [top, bottom] = sides(y0, y1, this.height);
    return [left, top, right, bottom];
  }

  /** A box that another one was made from: sides that are the same stay as they are, fractions too. */
  resized(old, box) {
    const inside = this.within(box);
    return box[0] > box[2] || box[1] > box[3] ? inside : inside.map((side, k) => (box[k] === old[k] ? old[k] : side));
  }

  /** A box moved by so much, as far as the image reaches; its size stays. */
  moved([x0, y0, x1, y1], dx, dy) {
    const by = (low, high, step, most) => Math.min(Math.max(Math.round(step), Math.min(-low, 0)), Math.max(most - high, 0));
    const [x, y] = [by(x0, x1, dx, this.width), by(y0, y1, dy, this.height)];
    return [x0 + x, y0 + y, x1 + x, y1 + y];
  }
}

function sides(one, other, most) {
  const low = Math.min(Math.max(Math.round(Math.min(one, other)), 0), most - 1);
  return [low, Math.max(Math.min(Math.round(Math.max(one, other)), most), low + 1)];
}
