// The objects of one picture: which pixel belongs to which. The page keeps them and sends the server a bit a pixel.

export const MOST_OBJECTS = 250;
const UNDOS = 30;

/** A rectangle of pixels: from (left, top) to just before (right, bottom). */
function union(first, second) {
  if (!first) return second;
  return {
    left: Math.min(first.left, second.left),
    top: Math.min(first.top, second.top),
    right: Math.max(first.right, second.right),
    bottom: Math.max(first.bottom, second.bottom),
  };
}

export class ObjectMask {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.labels = new Uint8Array(width * height); // 0: no object; else its number
    this.objects = []; // {number, pixels}
    this.undos = [];
  }

  get isEmpty() {
    return this.objects.length === 0;
  }

  get whole() {
    return { left: 0, top: 0, right: this.width, bottom: this.height };
  }

  /** Returns the lowest number that no object has; null where there are too many. */
  freeNumber() {
    for (let number = 1; number <= MOST_OBJECTS; number++) {
      if (!this.objects.some((object) => object.number === number)) return number;
    }
    return null;
  }

  // --- changes, each between begin() and end()

  begin() {
    this.before = this.labels.slice();
    this.changed = null;
  }

  /** Ends a change, which can be undone then; returns the rectangle that it touched, or null. */
  end() {
    const area = this.changed;
    if (area) {
      this.undos.push({ area, old: this.cut(this.before, area) });
      if (this.undos.length > UNDOS) this.undos.shift();
      this.count();
    }
    this.before = null;
    return area;
  }

  undo() {
    const last = this.undos.pop();
    if (!last) return null;
    const { area, old } = last;
    const width = area.right - area.left;
    for (let y = area.top; y < area.bottom; y++) {
      const from = (y - area.top) * width;
      this.labels.set(old.subarray(from, from + width), y * this.width + area.left);
    }
    this.count();
    return area;
  }

  /** Gives an object the pixels of a bit a pixel, row by row, the highest bit first. */
  fill(bits, number) {
    const { labels } = this;
    for (let byte = 0; byte < bits.length; byte++) {
      if (!bits[byte]) continue;
      for (let bit = 0; bit < 8; bit++) {
        if (bits[byte] & (128 >> bit)) labels[8 * byte + bit] = number;
      }
    }
    this.changed = this.whole;
  }

  remove(number) {
    for (let place = 0; place < this.labels.length; place++) {
      if (this.labels[place] === number) this.labels[place] = 0;
    }
    this.changed = this.whole;
  }

  /** Draws a round brush from one point to another, in pixels; number 0 removes. Returns the rectangle it touched. */
  stroke(from, to, radius, number) {
    const area = {
      left: Math.max(0, Math.floor(Math.min(from.x, to.x) - radius)),
      top: Math.max(0, Math.floor(Math.min(from.y, to.y) - radius)),
      right: Math.min(this.width, Math.ceil(Math.max(from.x, to.x) + radius) + 1),
      bottom: Math.min(this.height, Math.ceil(Math.max(from.y, to.y) + radius) + 1),
    };
    const along = { x: to.x - from.x, y: to.y - from.y };
    const length = along.x * along.x + along.y * along.y;
    for (let y = area.top; y < area.bottom; y++) {
      for (let x = area.left; x < area.right; x++) {
        const dx = x + 0.5 - from.x;
        const dy = y + 0.5 - from.y;
        const part = length ? Math.min(1, Math.max(0, (dx * along.x + dy * along.y) / length)) : 0;
        const offX = dx - part * along.x;
        const offY = dy - part * along.y;
        if (offX * offX + offY * offY <= radius * radius) this.labels[y * this.width + x] = number;
      }
    }
    this.changed = union(this.changed, area);
    return area;
  }

  cut(labels, area) {
    const width = area.right - area.left;
    const part = new Uint8Array(width * (area.bottom - area.top));
    for (let y = area.top; y < area.bottom; y++) {
      const from = y * this.width + area.left;
      part.set(labels.subarray(from, from + width), (y - area.top) * width);
    }
    return part;
  }

  count() {
    const pixels = new Float64Array(256);
    for (const label of this.labels) pixels[label]++;
    this.objects = [];
    for (let number = 1; number < 256; number++) {
      if (pixels[number]) this.objects.push({ number, pixels: pixels[number] });
    }
  }

  /** Returns all objects together, a bit a pixel, as the server takes them. */
  bits() {
    const { labels } = this;
    const bits = new Uint8Array(Math.ceil(labels.length / 8));
    for (let place = 0; place < labels.length; place++) {
      if (labels[place]) bits[place >> 3] |= 128 >> (place & 7);
    }
    return bits;
  }
}
