// The objects of one picture: which pixel belongs to which. The page keeps them and sends them as runs of pixels, row by
// row: a word a run, with the object's number in its lowest byte and the count of pixels above it.

const UNDOS = 30;
const LONGEST = 2 ** 24 - 1; // pixels of a run

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
  /** most: objects that a picture may have. */
  constructor(width, height, most) {
    this.width = width;
    this.height = height;
    this.most = most;
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

  /** Returns the lowest numbers that no object has; an Error, in words for people, where there are too many. */
  freeNumbers(count = 1) {
    const taken = new Set(this.objects.map((object) => object.number));
    const free = [];
    for (let number = 1; number <= this.most && free.length < count; number++) {
      if (!taken.has(number)) free.push(number);
    }
    if (free.length < count) throw new Error(`A picture has at most ${this.most} objects; remove some.`);
    return free;
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

  /** Gives objects their pixels. runs: as they are sent; numbers: of the objects that are 1, 2, … in them. */
  fill(runs, numbers) {
    const { labels, width } = this;
    let place = 0;
    for (const word of runs) {
      const end = place + (word >>> 8);
      const number = word & 255;
      if (number) {
        labels.fill(numbers[number - 1], place, end);
        this.changed = union(this.changed, { left: 0, top: Math.floor(place / width), right: width, bottom: Math.ceil(end / width) });
      }
      place = end;
    }
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

  /** Returns the runs of all objects, as the server takes them. */
  runs() {
    const { labels } = this;
    const words = [];
    for (let place = 0; place < labels.length; ) {
      const number = labels[place];
      const most = Math.min(labels.length, place + LONGEST);
      let end = place + 1;
      while (end < most && labels[end] === number) end++;
      words.push((end - place) * 256 + number);
      place = end;
    }
    return new Uint32Array(words);
  }
}
