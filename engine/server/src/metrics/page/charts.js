// Drawing with plain SVG: a line over time, bars, a heat map; and tables that change in place.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 130, LEFT = 40, RIGHT = 8, TOP = 10, BOTTOM = 18;

function shape(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function short(value) {
  if (value === null) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(0)}k`;
  if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return size >= 1 ? value.toFixed(1) : value.toPrecision(2);
}

const clock = (t) => new Date(t * 1000).toLocaleTimeString("en-GB");

// A panel: a focusable chart, in which arrow keys and the pointer read single points.
export class Panel {
  constructor(parent, id, title) {
    this.figure = parent.appendChild(document.createElement("figure"));
    this.figure.id = id;
    this.figure.tabIndex = 0;
    const caption = this.figure.appendChild(document.createElement("figcaption"));
    caption.append(title);
    this.now = caption.appendChild(document.createElement("span"));
    this.now.className = "now";
    this.svg = this.figure.appendChild(shape("svg", { role: "img" }));
    this.said = this.figure.appendChild(document.createElement("output"));
    this.title = title;
    this.at = null; // the time that is read, or null
    this.points = [];
    this.figure.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.read(null));
  }

  // One unit is one pixel, so that text is as large as elsewhere. Returns the width.
  size(height) {
    const width = this.svg.clientWidth || 320;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    return width;
  }

  key(event) {
    const last = this.points.length - 1;
    if (last < 0) return;
    const here = this.at === null ? last + 1 : this.points.findIndex((point) => point.t >= this.at);
    const steps = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: last };
    if (event.key === "Escape") return this.read(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.read(this.points[Math.max(0, Math.min(last, steps[event.key]))].t);
  }

  point(event) {
    if (!this.points.length) return;
    const box = this.svg.getBoundingClientRect();
    const t = this.end - (this.span * (box.right - RIGHT - event.clientX)) / (box.width - LEFT - RIGHT);
    const nearer = (a, b) => (Math.abs(a.t - t) <= Math.abs(b.t - t) ? a : b);
    this.read(this.points.reduce(nearer).t);
  }

  read(t) {
    this.at = t;
    if (this.redraw) this.redraw();
  }

  // `state`: the current value as text; `bad`: whether it exceeds its threshold.
  tell(state, bad) {
    setText(this.now, state);
    this.figure.classList.toggle("bad", bad);
    this.svg.setAttribute("aria-label", `${this.title}: ${state}`);
  }

  // `points`: {t, values: [number or null, …]}; `names` of the values; `limit`: a threshold and its label, or null.
  lines(points, names, limit, unit, span) {
    const width = this.size(HEIGHT);
    this.points = points;
    this.span = span;
    this.end = points.length ? points[points.length - 1].t : 0;
    this.redraw = () => this.lines(points, names, limit, unit, span);
    const all = points.flatMap((point) => point.values.filter((value) => value !== null));
    const top = Math.max(limit ? limit.value * 1.25 : 0, ...all.map((value) => value * 1.1)) || 1;
    const x = (t) => width - RIGHT - ((this.end - t) / span) * (width - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
    const drawn = axes(width, y, top, span);
    if (limit) {
      const at = y(limit.value);
      drawn.push(shape("line", { class: "limit", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }));
      drawn.push(shape("text", { class: "limit-text", x: LEFT + 4, y: at - 3 }, limit.label));
    }
    names.forEach((_, which) => {
      let path = "";
      let pen = false;
      for (const { t, values } of points) {
        const value = values[which];
        if (value !== null) path += `${pen ? "L" : "M"}${x(t).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = value !== null;
      }
      drawn.push(shape("path", { class: which ? "line second" : "line", d: path || "M0 0" }));
    });
    const read = this.at === null ? null : points.find((point) => point.t >= this.at);
    if (read) drawn.push(shape("line", { class: "cursor", x1: x(read.t), x2: x(read.t), y1: TOP, y2: HEIGHT - BOTTOM }));
    this.svg.replaceChildren(...drawn);
    const values = (point) => names.map((name, i) => `${name} ${short(point.values[i])}${unit}`.trim()).join(", ");
    setText(this.said, read ? `${clock(read.t)}: ${values(read)}` : legend(names));
  }

  // `bars`: {name, value, bad}, at most ten.
  bars(bars) {
    const step = 22;
    const room = this.size(Math.max(HEIGHT, bars.length * step + 8)) - 170;
    const top = Math.max(1, ...bars.map((bar) => bar.value));
    const drawn = bars.flatMap((bar, row) => {
      const y = 6 + row * step;
      const width = (bar.value / top) * room;
      const name = bar.name.length > 16 ? `${bar.name.slice(0, 15)}…` : bar.name;
      return [
        shape("text", { x: 100, y: y + 12, "text-anchor": "end" }, name),
        shape("rect", { class: bar.bad ? "bar bad" : "bar", x: 106, y, width: Math.max(1, width), height: 15 }),
        shape("text", { x: 112 + width, y: y + 12 }, `${short(bar.value)}${bar.bad ? " !" : ""}`),
      ];
    });
    this.svg.replaceChildren(...drawn);
  }

  // `rows`: {name, cells: [{part, text} or undefined, …]}, newest last; `part` is 0 to 1, `marked` above 0.8.
  heat(rows, columns, span) {
    const step = Math.max(10, Math.min(22, 240 / Math.max(1, rows.length)));
    const height = rows.length * step + BOTTOM;
    const all = this.size(height);
    const width = (all - LEFT - RIGHT) / columns;
    const drawn = rows.flatMap((row, at) => {
      const y = at * step;
      const cells = row.cells.flatMap((cell, column) => {
        if (!cell) return [];
        const x = LEFT + column * width;
        const rect = shape("rect", { class: "heat", x, y: y + 0.5, width: width * 0.94, height: step - 1,
          "fill-opacity": (0.06 + 0.94 * cell.part).toFixed(2) });
        rect.append(shape("title", {}, cell.text));
        return cell.part > 0.8
          ? [rect, shape("text", { x: x + width / 2, y: y + step - 5, "text-anchor": "middle" }, "!")]
          : [rect];
      });
      return [shape("text", { x: LEFT - 6, y: y + step / 2 + 4, "text-anchor": "end" }, row.name), ...cells];
    });
    drawn.push(...timeAxis(all, height - 4, span));
    this.svg.replaceChildren(...drawn);
  }
}

const legend = (names) => (names.length > 1 ? `${names[0]} —, ${names[1]} - -` : "");

function timeAxis(width, y, span) {
  return [
    shape("text", { x: LEFT, y }, `${Math.round(span / 60)} min ago`),
    shape("text", { x: width - RIGHT, y, "text-anchor": "end" }, "now"),
  ];
}

function axes(width, y, top, span) {
  const line = (value) => shape("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) });
  const label = (value) => shape("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value));
  return [line(0), line(top), label(0), label(top), ...timeAxis(width, HEIGHT - 4, span)];
}

// Fills a table in place, so that a selection in it lasts. `columns`: texts, a leading "#" for numbers. `rows`: lists
// of texts or of {text, series, bad}; `series` is the value's name on /metrics.
export function fill(table, caption, columns, rows) {
  if (!table.tHead) {
    if (caption) table.createCaption().textContent = caption;
    const head = table.createTHead().insertRow();
    for (const column of columns) {
      const cell = head.appendChild(document.createElement("th"));
      cell.scope = "col";
      cell.textContent = column.replace("#", "");
      cell.classList.toggle("number", column.startsWith("#"));
    }
    table.createTBody();
  }
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, at) => {
    const line = body.rows[at] || body.insertRow();
    row.forEach((value, column) => {
      let cell = line.cells[column];
      if (!cell) {
        cell = line.appendChild(document.createElement(column ? "td" : "th"));
        if (!column) cell.scope = "row";
        cell.classList.toggle("number", columns[column].startsWith("#"));
      }
      const { text, series, bad } = typeof value === "string" ? { text: value } : value;
      setText(cell, text);
      cell.classList.toggle("bad", Boolean(bad));
      if (series && cell.dataset.series !== series) cell.dataset.series = series;
    });
  });
}
