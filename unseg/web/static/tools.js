// Box and brush on the stage, by pointer and by keyboard. What they change is told to whoever listens.

import { say } from "./words.js";

const LEAST_BOX = 4; // pixels: what is smaller was a click
const HELP = {
  box: "Draw a box around an object; its outline is found. By keyboard: arrows move the box, Shift and arrows change its size, Enter finds the object, Escape drops the box.",
  add: "Paint what belongs to the chosen object. By keyboard: arrows move the brush, Space paints, Shift and arrows paint along, + and − change the size.",
  remove: "Paint what belongs to no object. By keyboard: arrows move the brush, Space removes, Shift and arrows remove along, + and − change the size.",
};
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Tools {
  /** found: is called with a box, [x1, y1, x2, y2]. stroke: returns the object that a stroke is for. changed: after it. */
  constructor(stage, { found, stroke, changed, divided }) {
    Object.assign(this, { stage, found, stroke, changed, divided });
    this.tool = "box";
    this.size = document.getElementById("brush-size");
    this.listen();
  }

  get isMarking() {
    return this.stage.view === "object" && Boolean(this.stage.picture);
  }

  /** Returns the brush's radius in pixels: of the long side, up to a sixth. */
  get radius() {
    const { width, height } = this.stage.picture;
    return Math.max(0.8, ((this.size.value / 100) ** 2 * Math.max(width, height)) / 6);
  }

  choose(tool) {
    this.tool = tool;
    this.keyBox = this.brush = null;
    this.stage.hideMarks();
    document.getElementById("brush").hidden = tool === "box";
    this.help();
  }

  help() {
    const other = {
      compare: "Left of the line is the picture as it was, right of it as it will be. Drag the line, or use the slider below.",
      noise: "The change alone, enlarged. Grey means no change.",
    };
    document.getElementById("tool-help").textContent = other[this.stage.view] ?? HELP[this.tool];
  }

  listen() {
    const { sheet, frame } = this.stage;
    sheet.addEventListener("pointerdown", (event) => this.down(event));
    sheet.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) sheet.addEventListener(end, (event) => this.up(event));
    sheet.addEventListener("pointerleave", () => this.start || this.brush || (this.stage.marks.cursor.hidden = true));
    sheet.addEventListener("dragstart", (event) => event.preventDefault());
    frame.addEventListener("keydown", (event) => this.key(event));
  }

  // --- pointer

  down(event) {
    if (event.button !== 0 || !this.stage.picture || this.stage.view === "noise") return;
    this.stage.sheet.setPointerCapture(event.pointerId);
    this.start = this.last = this.stage.pointOf(event);
    this.keyBox = this.brush = null;
    if (this.stage.view === "compare") this.divide(event);
    else if (this.tool !== "box") this.beginStroke();
  }

  move(event) {
    if (!this.stage.picture) return;
    const point = this.stage.pointOf(event);
    if (this.stage.view === "compare" && this.start) this.divide(event);
    if (!this.isMarking) return;
    if (this.tool !== "box") {
      this.stage.showCursor(point, this.radius);
      if (this.start) this.paint(point);
    } else if (this.start) {
      this.stage.showBox(this.boxTo(point));
    }
  }

  up(event) {
    if (!this.start) return;
    const begun = this.start;
    const box = this.stage.view === "object" && this.tool === "box" ? this.boxTo(this.stage.pointOf(event)) : null;
    this.start = null;
    if (this.isMarking && this.tool !== "box") this.endStroke();
    if (!box || event.type === "pointercancel") return;
    this.stage.hideMarks();
    if (box.right - box.left >= LEAST_BOX && box.bottom - box.top >= LEAST_BOX) this.find(box);
    else say(`No box was drawn at ${Math.round(begun.x)}, ${Math.round(begun.y)}.`);
  }

  divide(event) {
    this.divided((100 * this.stage.pointOf(event).x) / this.stage.picture.width);
  }

  /** Returns the box from where the pointer went down to a point, within the picture. */
  boxTo(point) {
    const { width, height } = this.stage.picture;
    const clamp = (value, most) => Math.min(most, Math.max(0, value));
    return {
      left: clamp(Math.min(this.start.x, point.x), width),
      top: clamp(Math.min(this.start.y, point.y), height),
      right: clamp(Math.max(this.start.x, point.x), width),
      bottom: clamp(Math.max(this.start.y, point.y), height),
    };
  }

  /** Asks for the object in a box. Boxes name whole pixels, corners inclusive. */
  find({ left, top, right, bottom }) {
    this.found([Math.floor(left), Math.floor(top), Math.ceil(right) - 1, Math.ceil(bottom) - 1]);
  }

  // --- strokes

  beginStroke() {
    this.number = this.tool === "remove" ? 0 : this.stroke();
    this.stage.mask.begin();
    this.paint(this.last);
  }

  paint(point) {
    this.stage.redraw(this.stage.mask.stroke(this.last, point, this.radius, this.number));
    this.last = point;
  }

  endStroke() {
    this.stage.mask.end();
    this.changed(this.tool === "remove" ? "Removed." : "Added.");
  }

  // --- keyboard

  key(event) {
    if (!this.isMarking || event.ctrlKey || event.metaKey || event.altKey) return;
    const handled = this.tool === "box" ? this.boxKey(event) : this.brushKey(event);
    if (handled) event.preventDefault();
  }

  boxKey(event) {
    const { width, height } = this.stage.picture;
    const way = WAYS[event.key];
    if (way) {
      const box = (this.keyBox ??= { left: width / 4, top: height / 4, right: (3 * width) / 4, bottom: (3 * height) / 4 });
      const step = Math.max(1, Math.max(width, height) / 50);
      const [dx, dy] = [way[0] * step, way[1] * step];
      if (!event.shiftKey) {
        const shift = { x: Math.min(Math.max(dx, -box.left), width - box.right), y: Math.min(Math.max(dy, -box.top), height - box.bottom) };
        Object.assign(box, { left: box.left + shift.x, right: box.right + shift.x, top: box.top + shift.y, bottom: box.bottom + shift.y });
      } else {
        box.right = Math.min(width, Math.max(box.left + LEAST_BOX, box.right + dx));
        box.bottom = Math.min(height, Math.max(box.top + LEAST_BOX, box.bottom + dy));
      }
      this.stage.showBox(box).scrollIntoView({ block: "nearest", inline: "nearest" });
      say(`Box from ${Math.round(box.left)}, ${Math.round(box.top)} to ${Math.round(box.right)}, ${Math.round(box.bottom)}.`);
      return true;
    }
    if (!this.keyBox || !["Enter", "Escape"].includes(event.key)) return false;
    const box = this.keyBox;
    this.keyBox = null;
    this.stage.hideMarks();
    if (event.key === "Enter") this.find(box);
    else say("The box is dropped.");
    return true;
  }

  brushKey(event) {
    const { width, height } = this.stage.picture;
    if (event.key === "+" || event.key === "-" || event.key === "−") {
      this.size.value = Number(this.size.value) + (event.key === "+" ? 5 : -5);
      say(`Brush size ${this.size.value}.`);
    } else if (WAYS[event.key]) {
      const from = (this.brush ??= { x: width / 2, y: height / 2 });
      const step = Math.max(1, this.radius, Math.max(width, height) / 50);
      const [dx, dy] = WAYS[event.key];
      this.brush = {
        x: Math.min(width, Math.max(0, from.x + dx * step)),
        y: Math.min(height, Math.max(0, from.y + dy * step)),
      };
      if (event.shiftKey) this.dab(from, this.brush);
      else say(`Brush at ${Math.round(this.brush.x)}, ${Math.round(this.brush.y)}.`);
    } else if (event.key === " " || event.key === "Enter") {
      this.brush ??= { x: width / 2, y: height / 2 };
      this.dab(this.brush, this.brush);
    } else {
      return false;
    }
    const cursor = this.stage.showCursor((this.brush ??= { x: width / 2, y: height / 2 }), this.radius);
    cursor.scrollIntoView({ block: "nearest", inline: "nearest" });
    return true;
  }

  dab(from, to) {
    this.last = from;
    this.beginStroke();
    this.paint(to);
    this.endStroke();
  }
}
