// Which classes are shown: a box to tick for each, with how many there are.

import { colourOf, printable } from "./draw.js";

const ALWAYS = 12; // classes of a model that are listed whether found or not; of more, those that were found

export class ClassFilter {
  constructor(list, onChange) {
    Object.assign(this, { list, onChange, off: new Set(), boxes: new Map() });
  }

  isOn(name) {
    return !this.off.has(name);
  }

  /** List the classes of a model and of what was found. keep: those that are listed stay. */
  fill(classes, items, colours, keep) {
    const found = items.map((item) => item.name);
    const before = keep ? [...this.boxes.keys()] : [];
    const names = [...new Set([...(classes.length <= ALWAYS ? classes : []), ...before, ...found])];
    if (names.join("\0") === [...this.boxes.keys()].join("\0")) return;
    this.boxes = new Map(names.map((name) => [name, this.boxOf(name, colourOf(colours, name))]));
    this.list.replaceChildren(...[...this.boxes.values()].map(({ label }) => label));
  }

  /** How many of each class reach the lowest score. */
  count(items) {
    for (const [name, { number }] of this.boxes) {
      number.textContent = String(items.filter((item) => item.name === name).length);
    }
  }

  setAll(on) {
    this.off = new Set(on ? [] : this.boxes.keys());
    for (const { box } of this.boxes.values()) box.checked = on;
    this.onChange();
  }

  boxOf(name, colour) {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: this.isOn(name) });
    box.addEventListener("change", () => {
      if (box.checked) this.off.delete(name);
      else this.off.add(name);
      this.onChange();
    });
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.backgroundColor = colour;
    const number = Object.assign(document.createElement("span"), { className: "number" });
    const label = Object.assign(document.createElement("label"), { className: "class" });
    label.append(box, swatch, printable(name), number);
    return { label, box, number };
  }
}
