// The picture on the page: its layers, its size, and where a pointer stands on it. It knows no tools.

const OVERLAY_PIXELS = 4e6; // of the canvas that shows objects; larger pictures show every second pixel, or fewer
const COLOURS = [[214, 39, 160], [0, 114, 178], [0, 158, 115], [213, 94, 0], [230, 159, 0], [86, 180, 233]];
const EDGE = [255, 255, 255, 255]; // around each object: its colour alone could be that of the picture
const OPACITY = 110; // of 255

/** Returns the place in the list of colours that an object has, from 1. */
export function colourOf(number) {
  return ((number - 1) % COLOURS.length) + 1;
}

const byId = (id) => document.getElementById(id);

export class Stage {
  constructor() {
    this.frame = byId("stage");
    this.sheet = byId("sheet");
    this.overlay = byId("overlay");
    this.layers = { original: byId("original"), protected: byId("protected"), noise: byId("noise") };
    this.marks = { box: byId("box"), cursor: byId("cursor"), divider: byId("divider") };
    this.zoom = "fit";
    this.view = "object";
    new ResizeObserver(() => this.place()).observe(this.frame);
  }

  /** Shows another picture: {width, height}, its address, and its objects. */
  show(picture, address, mask) {
    this.picture = picture;
    this.mask = mask;
    this.frame.style.setProperty("--ratio", picture.width / picture.height);
    this.layers.original.src = address;
    this.layers.original.alt = picture.name;
    this.layers.protected.removeAttribute("src");
    this.layers.noise.removeAttribute("src");
    this.step = Math.max(1, Math.ceil(Math.sqrt((picture.width * picture.height) / OVERLAY_PIXELS)));
    this.overlay.width = Math.ceil(picture.width / this.step);
    this.overlay.height = Math.ceil(picture.height / this.step);
    this.hideMarks();
    this.redraw();
    this.place();
  }

  // --- size

  setZoom(zoom) {
    const { frame } = this;
    const middle = [frame.scrollLeft + frame.clientWidth / 2, frame.scrollTop + frame.clientHeight / 2];
    const before = this.scale;
    this.zoom = zoom;
    this.place();
    const grown = this.scale / before;
    frame.scrollTo(middle[0] * grown - frame.clientWidth / 2, middle[1] * grown - frame.clientHeight / 2);
  }

  /** Returns how many of the page's pixels a pixel of the picture takes; 100 % is one of the screen's own. */
  get scale() {
    if (this.zoom !== "fit") return Number(this.zoom) / devicePixelRatio;
    const { width, height } = this.picture;
    return Math.min(this.frame.clientWidth / width, this.frame.clientHeight / height);
  }

  place() {
    if (!this.picture) return;
    const { width, height } = this.picture;
    this.sheet.style.width = `${width * this.scale}px`;
    this.sheet.style.height = `${height * this.scale}px`;
    this.sheet.classList.toggle("large", this.scale * devicePixelRatio > 1.5);
  }

  /** Returns the point of the picture, in pixels, that a pointer stands on. */
  pointOf(event) {
    const place = this.sheet.getBoundingClientRect();
    return {
      x: ((event.clientX - place.left) / place.width) * this.picture.width,
      y: ((event.clientY - place.top) / place.height) * this.picture.height,
    };
  }

  // --- layers

  setView(view) {
    this.view = view;
    this.sheet.dataset.view = view;
    this.overlay.hidden = view !== "object";
    this.layers.protected.hidden = view !== "compare";
    this.layers.noise.hidden = view !== "noise";
    this.marks.divider.hidden = view !== "compare";
    this.hideMarks();
  }

  /** Loads the protected picture or the noise into its layer; resolves once it is there. */
  load(layer, address) {
    const image = this.layers[layer];
    return new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error("the picture cannot be shown; download it instead"));
      image.src = address;
    });
  }

  /** Divides between before (on the left) and after. share: 0 to 100. */
  divide(share) {
    this.layers.protected.style.clipPath = `inset(0 0 0 ${share}%)`;
    this.marks.divider.style.left = `${share}%`;
  }

  /** Draws the objects anew, those within a rectangle of the picture. */
  redraw(area = this.mask.whole) {
    const { step, mask, overlay } = this;
    // A pixel more on each side, whose edges may have come or gone.
    const left = Math.max(0, Math.floor(area.left / step) - 1);
    const top = Math.max(0, Math.floor(area.top / step) - 1);
    const width = Math.min(overlay.width, Math.ceil(area.right / step) + 1) - left;
    const height = Math.min(overlay.height, Math.ceil(area.bottom / step) + 1) - top;
    if (width <= 0 || height <= 0) return;
    const drawn = new ImageData(width, height);
    const { labels } = mask;
    const down = step * mask.width;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const at = (top + y) * down + (left + x) * step;
        const number = labels[at];
        if (!number) continue;
        const isEdge = [at - step, at + step, at - down, at + down].some((next) => (labels[next] ?? number) !== number);
        const place = 4 * (y * width + x);
        drawn.data.set(isEdge ? EDGE : [...COLOURS[colourOf(number) - 1], OPACITY], place);
      }
    }
    overlay.getContext("2d").putImageData(drawn, left, top);
  }

  // --- marks: a box that is being drawn, and the brush

  hideMarks() {
    this.marks.box.hidden = this.marks.cursor.hidden = true;
  }

  showBox({ left, top, right, bottom }) {
    const { box } = this.marks;
    box.hidden = false;
    this.put(box, left, top, right - left, bottom - top);
    return box;
  }

  showCursor(point, radius) {
    const { cursor } = this.marks;
    cursor.hidden = false;
    this.put(cursor, point.x, point.y, 2 * radius, 2 * radius);
    return cursor;
  }

  put(mark, left, top, width, height) {
    const { picture } = this;
    mark.style.left = `${(100 * left) / picture.width}%`;
    mark.style.top = `${(100 * top) / picture.height}%`;
    mark.style.width = `${(100 * width) / picture.width}%`;
    mark.style.height = `${(100 * height) / picture.height}%`;
  }
}
