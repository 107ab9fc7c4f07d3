"use strict";
// Sorts the tables and zooms the timeline. The address may say how: #sort=step, #sort=-speedup, #zoom=0.1,0.2.
(() => {
  const told = () => new Map(location.hash.slice(1).split("&").map((word) => word.split("=")));

  // Tables: a click on a heading sorts by it, another one turns the order round.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const order = (a, b) => {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1; // what is not known comes last
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0;
  };
  const sort = (table, column, down) => {
    const rows = [...table.tBodies[0].rows].map((row, at) => [valueOf(row, column), at, row]);
    rows.sort((a, b) => (a[0] === "" || b[0] === "" || !down ? order(a[0], b[0]) : order(b[0], a[0])) || a[1] - b[1]);
    table.tBodies[0].append(...rows.map((one) => one[2]));
    [...table.tHead.rows[0].cells].forEach((cell, at) => {
      if (at === column) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  };
  const tables = [...document.querySelectorAll("table.sortable")];
  for (const table of tables) {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = cell.textContent;
      button.addEventListener("click", () => sort(table, column, cell.getAttribute("aria-sort") === "ascending"));
      cell.replaceChildren(button);
    });
  }
  const sortAsTold = () => {
    const key = told().get("sort");
    if (!key) return;
    for (const table of tables) {
      const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.dataset.key === key.replace(/^-/, ""));
      if (column >= 0) return sort(table, column, key.startsWith("-"));
    }
  };

  // The timeline: what of it lies in the window is drawn anew.
  const zoomable = () => {
    const data = JSON.parse(document.getElementById("timeline-data").textContent);
    const picture = document.getElementById("timeline-picture");
    const spans = document.getElementById("spans");
    const axis = document.getElementById("axis");
    const space = data.width - data.left;
    const [scale, unit] = data.unit;
    const size = 6; // numbers a box: start, end, look, name, micro-batch, count
    let from = 0;
    let until = data.ticks;

    const make = (name, attributes, text) => {
      const one = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
      if (text !== undefined) one.textContent = text;
      return one;
    };
    const x = (tick) => data.left + ((tick - from) / (until - from)) * space;
    const time = (tick) => `${Number(((tick / data.ticks) * data.end / scale).toPrecision(6))} ${unit}`;

    const inWindow = (boxes) => {
      const found = [];
      for (let i = 0; i < boxes.length && boxes[i] < until; i += size) if (boxes[i + 1] > from) found.push(i);
      return found;
    };
    const drawLane = ([, y, height, name], boxes) => {
      const thin = ((until - from) / space) * 1.2;
      let run = null;
      const flush = () => {
        if (run) spans.append(box(run));
        run = null;
      };
      const box = ({ start, end, look, count, i }) => {
        const left = Math.max(x(start), data.left);
        const right = Math.min(x(end), data.width);
        const group = make("rect", { x: left.toFixed(2), y, width: Math.max(right - left, 0.4).toFixed(2), height, class: data.looks[look] });
        const microbatch = boxes[i + 4] >= 0 ? `, micro-batch ${boxes[i + 4]}` : "";
        const what = count > 1 ? `${count} spans, ${data.kinds[look]}` : `${data.names[boxes[i + 3]]}${microbatch}`;
        group.append(make("title", {}, `${what}\n${time(start)} to ${time(end)}`));
        return group;
      };
      for (const i of inWindow(boxes)) {
        const [start, end, look, , microbatch, count] = boxes.slice(i, i + size);
        const narrow = end - start < thin;
        if (run && run.look === look && narrow && start - run.end < thin) {
          run.end = Math.max(run.end, end);
          run.count += count;
          continue;
        }
        flush();
        const one = { start, end, look, count, i };
        if (narrow) {
          run = one;
          continue;
        }
        spans.append(box(one));
        const middle = (Math.max(x(start), data.left) + Math.min(x(end), data.width)) / 2;
        if (!name && microbatch >= 0 && ((end - start) / (until - from)) * space > 4 + 6 * String(microbatch).length) {
          const dark = /forward|optimizer/.test(data.looks[look]);
          spans.append(make("text", { x: middle.toFixed(2), y: y + height * 0.68, class: `number-in${dark ? "" : " on-light"}` }, microbatch));
        }
      }
      flush();
    };
    const drawGaps = ([y, height, boxes]) => {
      for (const i of inWindow(boxes)) {
        const [left, right] = [Math.max(x(boxes[i]), data.left), Math.min(x(boxes[i + 1]), data.width)];
        if (right - left < 0.4) continue;
        const gap = make("rect", { x: left.toFixed(2), y, width: (right - left).toFixed(2), height, class: data.looks[boxes[i + 2]] });
        gap.append(make("title", {}, `${data.kinds[boxes[i + 2]]}\n${time(boxes[i])} to ${time(boxes[i + 1])}`));
        spans.append(gap);
        const cause = data.names[boxes[i + 3]];
        if (boxes[i + 5] === 1 && right - left > 4 + 5 * cause.length) {
          spans.append(make("text", { x: ((left + right) / 2).toFixed(2), y: y + height * 0.66, class: "gap-in" }, cause));
        }
      }
    };
    const drawAxis = () => {
      axis.replaceChildren();
      const first = (from / data.ticks) * data.end / scale;
      const last = (until / data.ticks) * data.end / scale;
      const power = 10 ** Math.floor(Math.log10((last - first) / 6));
      const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= (last - first) / 6) || power;
      for (let n = Math.ceil(first / step - 1e-9); n * step <= last * (1 + 1e-12); n += 1) {
        const at = x((n * step * scale / data.end) * data.ticks).toFixed(2);
        axis.append(make("line", { x1: at, x2: at, y1: data.top - 6, y2: data.height, class: "grid" }));
        axis.append(make("text", { x: at, y: data.top - 10, class: "tick" }, `${Number((n * step).toPrecision(8))} ${unit}`));
      }
    };
    const draw = () => {
      spans.replaceChildren();
      drawAxis();
      data.gaps.forEach(drawGaps);
      data.lanes.forEach((lane, at) => drawLane(lane, data.boxes[at]));
      const whole = from === 0 && until === data.ticks;
      document.getElementById("timeline-window").textContent = whole ? "the whole step" : `${time(from)} to ${time(until)}`;
    };
    const show = (a, b) => {
      const width = Math.min(Math.max(b - a, data.ticks / 1e5), data.ticks);
      from = Math.round(Math.min(Math.max((a + b - width) / 2, 0), data.ticks - width));
      until = Math.round(from + width);
      draw();
    };
    const by = (factor) => show((from + until) / 2 - ((until - from) * factor) / 2, (from + until) / 2 + ((until - from) * factor) / 2);
    const move = (part) => {
      const step = Math.min(Math.max((until - from) * part, -from), data.ticks - until);
      show(from + step, until + step);
    };
    const actions = { in: () => by(0.5), out: () => by(2), left: () => move(-0.4), right: () => move(0.4), all: () => show(0, data.ticks) };
    const keys = { "+": "in", "=": "in", "-": "out", "0": "all", ArrowLeft: "left", ArrowRight: "right" };
    const controls = document.getElementById("timeline-controls");
    controls.hidden = false;
    controls.addEventListener("click", (event) => actions[event.target.dataset.do]?.());
    document.getElementById("timeline-scroll").addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(keys, event.key)) return;
      event.preventDefault();
      actions[keys[event.key]]();
    });

    // A drag over a part of the picture zooms into it.
    const tickAt = (event) => {
      const place = picture.getBoundingClientRect();
      const part = ((event.clientX - place.left) / place.width * data.width - data.left) / space;
      return from + Math.min(Math.max(part, 0), 1) * (until - from);
    };
    let drag = null;
    picture.addEventListener("pointerdown", (event) => {
      if (event.button || event.pointerType === "touch") return; // a finger scrolls
      drag = { start: tickAt(event), mark: make("rect", { y: data.top, height: data.height - data.top, width: 0, class: "drag" }) };
      picture.append(drag.mark);
      picture.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    picture.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const [a, b] = [drag.start, tickAt(event)].sort((one, other) => one - other);
      drag.mark.setAttribute("x", x(a));
      drag.mark.setAttribute("width", x(b) - x(a));
    });
    const drop = (event) => {
      if (!drag) return;
      const [a, b] = [drag.start, tickAt(event)].sort((one, other) => one - other);
      drag.mark.remove();
      drag = null;
      if (event.type === "pointerup" && x(b) - x(a) > 4) show(a, b);
    };
    picture.addEventListener("pointerup", drop);
    picture.addEventListener("pointercancel", drop);
    picture.addEventListener("dblclick", actions.all);
    const zoomAsTold = () => {
      const [a, b] = (told().get("zoom") || "").split(",").map(Number);
      if (a < b) show(a * data.ticks, b * data.ticks);
    };
    draw();
    zoomAsTold();
    addEventListener("hashchange", zoomAsTold);
  };
  if (document.getElementById("timeline-data")) zoomable();
  sortAsTold();
  addEventListener("hashchange", sortAsTold);
})();
