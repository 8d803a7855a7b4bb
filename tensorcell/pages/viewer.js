// The slices of a report: three linked sections of the volumes that lie in the page as mosaics of 8-bit planes.
// A mosaic is read once into a Uint8Array, from which every section is cut: at first those of the layers that are shown,
// the others when they are switched on or when the browser has nothing else to do.
(() => {
  "use strict";
  const viewer = document.getElementById("viewer");
  if (!viewer || !document.createElement("canvas").getContext) return;

  const PANELS = {
    xy: { across: "x", down: "y", through: "z" },
    yz: { across: "z", down: "y", through: "x" },
    xz: { across: "x", down: "z", through: "y" },
  };
  const GAP = 8; // CSS pixels between panels
  const LEAST = 56; // CSS pixels: a shorter side is stretched to this, and the caption says so
  const TINT = 0.45; // opacity of the mark of voxels that were not measured
  const FILLED = 0, OUTLIER = 255; // levels of the mosaic of kinds; measured voxels have one between

  const find = (name, value) => viewer.querySelector(value === undefined ? `[data-${name}]` : `[data-${name}="${value}"]`);
  const slider = (name) => find("slider", name);
  const rgb = (colour) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  const sources = [...document.querySelectorAll("script[data-tiles]")];
  const stacks = new Map(); // number of the stack to what lies in the page of it
  // A layer that the reader wants is shown again after a stack that lacks it.
  const state = { at: { z: 0, y: 0, x: 0 }, marks: {}, wanted: {}, stack: null };

  // ------------------------------------------------------------------------------------------------- volumes

  async function levelsOf(layer) {
    const picture = new Image();
    picture.src = layer.image;
    await picture.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.width, picture.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    // All at once: one call for each plane takes several times as long.
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const levels = new Uint8Array(data.length / 4);
    for (let i = 0; i < levels.length; i++) levels[i] = data[4 * i];
    [layer.levels, layer.image] = [levels, null];
  }

  function load(stack, keys) {
    const wanted = stack.layers.filter((layer) => keys.includes(layer.key));
    return Promise.all(wanted.map((layer) => (layer.loading ??= levelsOf(layer))));
  }

  async function loadOthers(stack) {
    // A browser that is told no limit may wait for ever where nothing on the page changes.
    const idle = (then) => (window.requestIdleCallback ? requestIdleCallback(then, { timeout: 300 }) : setTimeout(then, 50));
    for (const { key } of stack.layers) {
      await new Promise((then) => idle(then));
      await load(stack, [key]);
      if (stack !== state.stack) return;
      draw();
    }
    viewer.dataset.whole = viewer.dataset.ready;
  }

  function stackOf(number) {
    if (!stacks.has(number)) {
      const stack = JSON.parse(sources[number].textContent), { size, tile: [rows, columns], columns: beside } = stack;
      const width = beside * columns, count = (axis) => [...Array(size[axis]).keys()];
      // Where planes, rows and columns lie in a mosaic; the place of a voxel is the sum of the three.
      stack.places = {
        z: count("z").map((z) => Math.floor(z / beside) * rows * width + (z % beside) * columns),
        y: count("y").map((y) => y * width),
        x: count("x"),
      };
      stacks.set(number, stack);
    }
    return stacks.get(number);
  }

  const layerOf = (key) => state.stack.layers.find((layer) => layer.key === key);
  const valueOf = (layer, level) => layer.low + (level / 255) * (layer.high - layer.low);

  function text(value, range) {
    if (range < 1e-3 || Math.max(range, Math.abs(value)) >= 1e6) return value.toPrecision(4);
    return value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(range))));
  }

  // ------------------------------------------------------------------------------------------------- colours

  function coloursOf(layer) {
    const table = new Uint8ClampedArray(3 * 256);
    const { black, white } = state, heat = state.stack.heat.map(rgb);
    for (let level = 0; level < 256; level++) {
      if (layer.look === "heat") {
        const place = (level / 255) * (heat.length - 1), first = Math.min(Math.floor(place), heat.length - 2);
        for (let c = 0; c < 3; c++) {
          table[3 * level + c] = heat[first][c] + (place - first) * (heat[first + 1][c] - heat[first][c]);
        }
      } else {
        table.fill((255 * (valueOf(layer, level) - black)) / Math.max(white - black, 1e-30), 3 * level, 3 * level + 3);
      }
    }
    return table;
  }

  function section(panel) {
    const { size, colours, places } = state.stack, { across, down, through } = PANELS[panel];
    const width = size[across], height = size[down], start = places[through][state.at[through]];
    const sides = ["left", "right"].map((side) => layerOf(state[side]));
    const tables = sides.map(coloursOf), levels = sides.map((layer) => layer.levels);
    const gaps = sides.map((layer) => layer.key === "input");
    const kind = layerOf("kind").levels, invented = layerOf("invented")?.levels;
    const [gap, outlier, orange] = [colours.gap, colours.outlier, colours.invented].map(rgb);
    const image = new ImageData(width, height), pixels = image.data, border = (state.wipe / 100) * width;
    for (let row = 0, out = 0; row < height; row++) {
      const begin = start + places[down][row];
      for (let column = 0; column < width; column++, out += 4) {
        const place = begin + places[across][column];
        const side = column + 0.5 < border ? 0 : 1, level = levels[side][place], what = kind[place];
        const bare = gaps[side] && what < 64;
        for (let c = 0; c < 3; c++) {
          let value = bare ? gap[c] : tables[side][3 * level + c];
          if (state.marks.filled && what < 64 && !bare) value += TINT * (gap[c] - value);
          if (state.marks.invented && invented) value += (invented[place] / 255) * (orange[c] - value);
          if (state.marks.outlier && what > 192) value = outlier[c];
          pixels[out + c] = value;
        }
        pixels[out + 3] = 255;
      }
    }
    return image;
  }

  // ------------------------------------------------------------------------------------------------- drawing

  function layout() {
    // One scale for all panels, in CSS pixels a micrometre, unless a side would be too short to see.
    const box = viewer.querySelector(".panels"), { size, spacing } = state.stack, room = box.clientWidth;
    const extent = { z: size.z * spacing[0], y: size.y * spacing[1], x: size.x * spacing[2] };
    const flat = size.z === 1, beside = !flat && room >= 560, tallest = Math.max(320, 0.85 * window.innerHeight);
    const widths = beside
      ? [(room - GAP) / (extent.x + extent.z), (room - GAP - LEAST) / extent.x]
      : [room / Math.max(extent.x, flat ? 0 : extent.z)];
    const scale = Math.min(...widths, tallest / (extent.y + (beside ? extent.z : 0)), flat ? Infinity : tallest / extent.z);
    const shown = {};
    for (const axis of "zyx") shown[axis] = Math.max(LEAST, Math.round(extent[axis] * scale));
    box.classList.toggle("beside", beside);
    for (const [name, { across, down }] of Object.entries(PANELS)) {
      const figure = find("panel", name), canvas = figure.querySelector("canvas"), ratio = window.devicePixelRatio || 1;
      figure.hidden = flat && name !== "xy";
      [canvas.width, canvas.height] = [Math.round(shown[across] * ratio), Math.round(shown[down] * ratio)];
      [canvas.style.width, canvas.style.height] = [`${shown[across]}px`, `${shown[down]}px`];
      const [wide, high] = [shown[across] / extent[across], shown[down] / extent[down]];
      const stretch = Math.max(wide, high) / Math.min(wide, high);
      figure.dataset.note = stretch > 1.05 ? `, ${wide > high ? across : down} stretched ${stretch.toFixed(1)} times` : "";
    }
  }

  function barLength(extent) {
    // The longest of 1, 2 and 5 times a power of ten that is at most 28 % of the extent.
    const target = 0.28 * extent, power = 10 ** Math.floor(Math.log10(target));
    return [5, 2, 1].map((step) => step * power).find((length) => length <= target * (1 + 1e-9));
  }

  function lengthText(length) {
    const round = (value) => String(Number(value.toPrecision(3)));
    if (length >= 1000) return `${round(length / 1000)} mm`;
    return length >= 0.1 ? `${round(length)} µm` : `${round(1000 * length)} nm`;
  }

  function drawBar(context, panel, width, height, ratio) {
    const { size, spacing } = state.stack, axis = PANELS[panel].across, extent = size[axis] * spacing["zyx".indexOf(axis)];
    const length = barLength(extent), shown = (length / extent) * width, name = lengthText(length);
    const left = 6 * ratio, bottom = height - 7 * ratio;
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.lineJoin = "round";
    for (const [colour, extra] of [["black", 1.5 * ratio], ["white", 0]]) {
      context.fillStyle = context.strokeStyle = colour;
      context.fillRect(left - extra, bottom - extra, shown + 2 * extra, 3 * ratio + 2 * extra);
      context.lineWidth = 3 * ratio;
      if (extra) context.strokeText(name, left, bottom - 5 * ratio);
      else context.fillText(name, left, bottom - 5 * ratio);
    }
    viewer.dataset[`bar${panel}`] = name;
  }

  function drawPanel(panel) {
    const figure = find("panel", panel), canvas = figure.querySelector("canvas"), context = canvas.getContext("2d");
    if (figure.hidden) return;
    const { width, height } = canvas, ratio = window.devicePixelRatio || 1, { across, down, through } = PANELS[panel];
    const image = section(panel), sheet = document.createElement("canvas"), { size } = state.stack;
    [sheet.width, sheet.height] = [image.width, image.height];
    sheet.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = image.width > width;
    context.drawImage(sheet, 0, 0, width, height);
    const line = (x0, y0, x1, y1, colour, thick) => {
      context.strokeStyle = colour;
      context.lineWidth = thick * ratio;
      context.beginPath();
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
      context.stroke();
    };
    if (state.marks.cursor) {
      const x = ((state.at[across] + 0.5) / size[across]) * width, y = ((state.at[down] + 0.5) / size[down]) * height;
      const hole = 7 * ratio; // what is pointed at stays visible
      for (const [a, b, c, d] of [[0, y, x - hole, y], [x + hole, y, width, y], [x, 0, x, y - hole], [x, y + hole, x, height]]) {
        line(a, b, c, d, "rgba(90, 200, 250, .8)", 1);
      }
    }
    if (state.wipe > 0 && state.wipe < 100) {
      const x = (state.wipe / 100) * width;
      line(x, 0, x, height, "black", 3);
      line(x, 0, x, height, "white", 1.5);
    }
    if (state.stack.known) drawBar(context, panel, width, height, ratio);
    figure.querySelector("figcaption").textContent = `${panel}: ${through} = ${voxels(through)}${figure.dataset.note}`;
  }

  // --------------------------------------------------------------------------------------------------- words

  function voxels(axis) {
    // The voxels of the result that the pixel under the cursor stands for.
    const { grain, whole } = state.stack, first = state.at[axis] * grain[axis];
    if (axis === "z" || grain[axis] === 1) return String(first);
    return `${first}–${Math.min(first + grain[axis], whole[axis]) - 1}`;
  }

  function readout() {
    const { places, layers, spacing, known } = state.stack, { z, y, x } = state.at;
    const place = places.z[z] + places.y[y] + places.x[x];
    const said = ["z", "y", "x"].map((axis, i) => {
      return `${axis} ${voxels(axis)}${known ? ` (${text(state.at[axis] * spacing[i], 10)} µm)` : ""}`;
    });
    const what = layerOf("kind").levels[place];
    const kind = what < 64 ? "not measured" : what > 192 ? "outlier" : "measured";
    const values = layers.filter((layer) => layer.levels && layer.key !== "kind").map((layer) => {
      const level = layer.levels[place];
      if (layer.key === "input" && what < 64) return `${layer.name}: none`;
      const sign = level === 255 ? "≥" : level === 0 && layer.low !== 0 ? "≤" : "≈";
      return `${layer.name} ${sign} ${text(valueOf(layer, level), layer.high - layer.low)}`;
    });
    find("readout").textContent = `${said.join(", ")}: ${kind}. ${values.join("; ")}.`;
  }

  function scale() {
    const heat = [...new Set([state.left, state.right])].map(layerOf).filter((layer) => layer.look === "heat");
    find("scale").replaceChildren(...heat.flatMap((layer) => {
      const bar = document.createElement("div"), ends = document.createElement("div");
      bar.className = "bar";
      bar.style.background = `linear-gradient(to right, ${state.stack.heat.join(", ")})`;
      ends.className = "ends";
      for (const end of [layer.low, layer.high]) {
        ends.append(Object.assign(document.createElement("span"), { textContent: text(end, layer.high - layer.low) }));
      }
      ends.firstChild.after(layer.name);
      return [bar, ends];
    }));
  }

  let waiting = false, chosen = 0;
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      Object.keys(PANELS).forEach(drawPanel);
      for (const axis of "zyx") {
        slider(axis).value = state.at[axis];
        find("value", axis).textContent = slider(axis).ariaValueText = voxels(axis);
      }
      find("value", "wipe").textContent = slider("wipe").ariaValueText = `${Math.round(state.wipe)} %`;
      const layer = layerOf("input") || layerOf("result");
      for (const end of ["black", "white"]) {
        find("value", end).textContent = slider(end).ariaValueText = text(state[end], layer.high - layer.low);
      }
      readout();
      scale();
    });
  }

  // ------------------------------------------------------------------------------------------------ controls

  function move(axis, to) {
    state.at[axis] = Math.max(0, Math.min(state.stack.size[axis] - 1, Math.round(to)));
    draw();
  }

  function contrast() {
    const { low, high } = layerOf("input") || layerOf("result");
    [state.black, state.white] = state.stack.grey;
    for (const end of ["black", "white"]) {
      Object.assign(slider(end), { min: low, max: high, step: (high - low) / 500, value: state[end] });
    }
    draw();
  }

  async function choose(number) {
    const stack = stackOf(number), shown = stack.layers.filter((layer) => layer.key !== "kind"), sides = {};
    chosen = number;
    for (const side of ["left", "right"]) {
      sides[side] = shown.some((layer) => layer.key === state.wanted[side]) ? state.wanted[side] : stack[side];
    }
    await load(stack, ["kind", sides.left, sides.right, ...(state.marks.invented ? ["invented"] : [])]);
    if (chosen !== number) return;
    const first = state.stack === null, sizes = state.stack?.size;
    state.stack = stack;
    Object.assign(state, sides);
    const same = sizes && "zyx".split("").every((axis) => sizes[axis] === stack.size[axis]);
    if (!same) state.at = { ...stack.start };
    for (const axis of "zyx") {
      Object.assign(slider(axis), { min: 0, max: stack.size[axis] - 1, step: 1 });
      slider(axis).closest("label").hidden = stack.size[axis] === 1;
    }
    for (const side of ["left", "right"]) {
      find("side", side).replaceChildren(...shown.map((layer) => new Option(layer.name, layer.key)));
      find("side", side).value = state[side];
    }
    find("mark", "invented").closest("label").hidden = !layerOf("invented");
    find("mark", "outlier").closest("label").hidden = !stack.replaced;
    if (first) {
      for (const mark of viewer.querySelectorAll("[data-mark]")) state.marks[mark.dataset.mark] = mark.checked;
      Object.assign(slider("wipe"), { min: 0, max: 100, step: 1, value: 50 });
      state.wipe = 50;
      viewer.hidden = false;
      for (const still of document.querySelectorAll(".still")) still.hidden = true;
    }
    for (const button of document.querySelectorAll("[data-stack]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.stack) === number));
    }
    layout();
    contrast();
    viewer.dataset.ready = String(number);
    requestAnimationFrame(() => loadOthers(stack).catch(console.error));
  }

  for (const axis of "zyx") slider(axis).addEventListener("input", (event) => move(axis, Number(event.target.value)));
  slider("wipe").addEventListener("input", (event) => { state.wipe = Number(event.target.value); draw(); });
  for (const [end, other] of [["black", "white"], ["white", "black"]]) {
    slider(end).addEventListener("input", (event) => {
      state[end] = Number(event.target.value);
      if (state.black > state.white) slider(other).value = state[other] = state[end];
      draw();
    });
  }
  find("reset").addEventListener("click", contrast);
  for (const side of ["left", "right"]) {
    find("side", side).addEventListener("change", async ({ target }) => {
      const key = target.value, { stack } = state;
      state.wanted[side] = key;
      await load(stack, [key]);
      if (stack === state.stack && target.value === key) state[side] = key;
      draw();
    });
  }
  for (const mark of viewer.querySelectorAll("[data-mark]")) {
    mark.addEventListener("change", async () => {
      if (mark.dataset.mark === "invented") await load(state.stack, ["invented"]);
      state.marks[mark.dataset.mark] = mark.checked;
      draw();
    });
  }
  for (const button of document.querySelectorAll("[data-stack]")) {
    button.addEventListener("click", () => choose(Number(button.dataset.stack)));
  }
  for (const [name, { across, down, through }] of Object.entries(PANELS)) {
    const canvas = find("panel", name).querySelector("canvas");
    const point = (event) => {
      const { left, top, width, height } = canvas.getBoundingClientRect(), { size } = state.stack;
      move(across, Math.floor(((event.clientX - left) / width) * size[across]));
      move(down, Math.floor(((event.clientY - top) / height) * size[down]));
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); point(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
    const keys = {
      ArrowLeft: [across, -1], ArrowRight: [across, 1], ArrowUp: [down, -1], ArrowDown: [down, 1],
      PageUp: [through, 1], PageDown: [through, -1],
    };
    canvas.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      const [axis, step] = keys[event.key];
      move(axis, state.at[axis] + step * (event.shiftKey ? 10 : 1));
      event.preventDefault();
    });
  }
  let room = 0;
  new ResizeObserver(() => {
    const now = viewer.querySelector(".panels").clientWidth;
    if (state.stack && now !== room) { room = now; layout(); draw(); }
  }).observe(viewer);
  // Where anything fails, such as a picture that cannot be decoded, the still pictures stay.
  choose(0).catch((error) => { viewer.hidden = true; console.error(error); });
})();
