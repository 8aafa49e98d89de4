// The detections as a table: a button in each row, of which one at a time is in the order of the Tab key.

import { colourOf, printable } from "./draw.js";

export class Table {
  /** onChoose: called with the item whose row has the focus. */
  constructor(body, onChoose) {
    Object.assign(this, { body, onChoose, rows: [] });
    body.addEventListener("focusin", (event) => this.choose(event.target));
    body.addEventListener("click", (event) => event.target.closest("tr")?.querySelector("button").focus());
  }

  fill(items, colours) {
    this.rows = items.map((item) => ({ item, row: rowOf(item, colourOf(colours, item.name)) }));
    this.body.replaceChildren(...this.rows.map(({ row }) => row));
  }

  /** Show the rows of these items alone. */
  filter(shown) {
    const wanted = new Set(shown);
    for (const { item, row } of this.rows) row.hidden = !wanted.has(item);
    this.mark(null);
  }

  /** Mark an item's row; without one the first is where Tab goes. */
  mark(chosen) {
    const visible = this.rows.filter(({ row }) => !row.hidden);
    const entry = visible.find(({ item }) => item === chosen) ?? visible[0];
    for (const one of this.rows) {
      one.row.querySelector("button").tabIndex = one === entry ? 0 : -1;
      one.row.classList.toggle("chosen", one.item === chosen);
    }
  }

  focus(item) {
    this.rows.find((one) => one.item === item)?.row.querySelector("button").focus();
  }

  /** The item `steps` rows further than another one; the first or last where there is none. */
  next(item, steps) {
    const visible = this.rows.filter(({ row }) => !row.hidden);
    const now = visible.findIndex((one) => one.item === item);
    const start = now < 0 ? (steps > 0 ? -1 : visible.length) : now;
    return visible[Math.min(Math.max(start + steps, 0), visible.length - 1)]?.item ?? null;
  }

  choose(target) {
    const found = this.rows.find(({ row }) => row.contains(target));
    if (found !== undefined) this.onChoose(found.item);
  }
}

function rowOf({ name, score, box }, colour) {
  const row = document.createElement("tr");
  const button = Object.assign(document.createElement("button"), { type: "button", className: "name" });
  const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
  swatch.style.backgroundColor = colour;
  button.append(swatch, printable(name));
  const cells = [button, score.toFixed(3), box.map((side) => Math.round(side)).join(" ")].map((content, column) => {
    const cell = document.createElement(column === 0 ? "th" : "td");
    cell.append(content);
    return cell;
  });
  cells[0].scope = "row";
  row.append(...cells);
  return row;
}
