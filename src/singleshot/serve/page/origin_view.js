// The part of the page that says where the chosen detection comes from.

import { ServiceError } from "./api.js";
import { Origins, inWords, weakerInWords } from "./origin.js";

export class OriginView {
  /** at: elements by id; onDraw: called with an origin to be drawn and the layers that are wanted, or null. */
  constructor(service, at, onDraw) {
    Object.assign(this, { at, onDraw, origins: new Origins(service), shown: null, drawn: null });
    at["origin-layers"].addEventListener("change", () => this.draw());
    at["origin-retry"].addEventListener("click", () => this.show(this.shown));
  }

  hide() {
    this.shown = this.drawn = null;
    this.at.origin.hidden = true;
    this.say("", false);
    this.onDraw(null);
  }

  /** what: {answer, item, file, explain}, the last as GET /v1/models has it. */
  async show(what) {
    const same = this.shown?.item === what.item && this.drawn !== null;
    this.shown = what;
    if (same) {
      this.draw();
      return;
    }
    this.drawn = null;
    this.onDraw(null);
    this.at.origin.hidden = false;
    if (!what.explain?.available) {
      this.say(`Not explained: ${what.explain?.reason ?? "this service does not explain"}.`, false);
      return;
    }
    const late = setTimeout(() => this.shown === what && this.say("Explaining …", false), 150);
    try {
      const found = await this.origins.of(what.answer, what.item, what.file);
      if (this.shown === what) this.fill(found);
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      if (this.shown === what) this.say(error.message, error.retryAfter !== null);
    } finally {
      clearTimeout(late);
    }
  }

  /** A line in place of an origin. */
  say(text, again) {
    this.at["origin-text"].textContent = text;
    this.at["origin-text"].classList.remove("hidden-text");
    this.at["origin-retry"].hidden = !again;
    this.at["origin-all"].hidden = true;
  }

  fill(found) {
    const { sentence, facts } = inWords(found, this.shown.answer.image);
    this.say(sentence, false);
    this.at["origin-text"].classList.add("hidden-text"); // heard, once it comes; seen are the facts
    this.at["origin-facts"].replaceChildren(...facts.map(([term, text]) => {
      const row = document.createElement("div");
      for (const [name, content] of [["dt", term], ["dd", text]]) {
        row.append(Object.assign(document.createElement(name), { textContent: content }));
      }
      return row;
    }));
    const { removed, runners_up: weaker } = found.origin;
    const more = removed > weaker.length ? ` (listed: the best ${weaker.length})` : "";
    this.at["origin-count"].textContent = `Removed by NMS: ${removed}${more}`;
    this.at["origin-removed"].replaceChildren(
      ...weaker.map((one) => Object.assign(document.createElement("li"), { textContent: weakerInWords(one) })),
    );
    this.at["origin-list"].hidden = weaker.length === 0;
    this.at["origin-all"].hidden = false;
    this.drawn = found.origin;
    this.draw();
  }

  draw() {
    if (this.drawn === null) return;
    const boxes = [...this.at["origin-layers"].querySelectorAll("input")];
    this.onDraw({ origin: this.drawn, layers: new Set(boxes.filter((box) => box.checked).map((box) => box.value)) });
  }
}
