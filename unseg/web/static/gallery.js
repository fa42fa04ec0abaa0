// The list of pictures: each with what is known of it, and a way to remove it.

import { element } from "./words.js";

const STATES = { null: "no object yet", marked: "object marked", whole: "whole image" };

export class Gallery {
  /** chosen, removed: are called with a picture. address: returns where its thumbnail is. */
  constructor({ chosen, removed, address }) {
    Object.assign(this, { chosen, removed, address });
    this.list = document.getElementById("pictures");
    this.rows = new Map();
  }

  add(picture) {
    const state = element("span", { class: "state" });
    const thumbnail = element("img", { src: this.address(picture), alt: "", loading: "lazy" });
    const words = element("span", {}, element("span", { class: "name", title: picture.name }, picture.name), state);
    const pick = element("button", { type: "button", class: "pick" }, thumbnail, words);
    const remove = element("button", { type: "button", class: "drop-it", "aria-label": `Remove ${picture.name}` }, "✕");
    pick.addEventListener("click", () => this.chosen(picture));
    remove.addEventListener("click", () => this.removed(picture));
    const row = element("li", {}, pick, remove);
    this.rows.set(picture.id, { row, pick, state });
    this.list.append(row);
    this.update(picture);
  }

  /** Shows what a picture's object is, or what became of the picture: "protected" or "weak". */
  update(picture, outcome = null) {
    const { state } = this.rows.get(picture.id);
    state.textContent = outcome ?? STATES[picture.object];
    state.classList.toggle("done", outcome === "protected");
  }

  select(picture) {
    for (const [id, { pick }] of this.rows) pick.setAttribute("aria-current", String(id === picture?.id));
  }

  /** Removes a row; the focus goes to the next one. */
  remove(picture) {
    const { row } = this.rows.get(picture.id);
    const next = row.nextElementSibling ?? row.previousElementSibling;
    const hadFocus = row.contains(document.activeElement);
    row.remove();
    this.rows.delete(picture.id);
    if (hadFocus) (next?.querySelector("button") ?? document.getElementById("choose-files")).focus();
  }
}
