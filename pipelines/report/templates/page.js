"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const cards = all(".card");
  const BINS = 24;
  const STEPS = 200;
  const number = (v) => (Math.abs(v) >= 1000 ? v.toFixed(0) : String(Number(v.toPrecision(3))));

  const exact = (v) => String(Number(v.toPrecision(8))); // as written into a rule: rounding must not drop rows

  // Landmarks: shares of the picture, quantised between the corners of all their positions; every `step` frames.
  const unpack = (track) => {
    const bytes = Uint8Array.from(atob(track.data), (c) => c.charCodeAt(0));
    const whole = track.bits === 8 ? bytes : new Uint16Array(bytes.buffer);
    const top = 2 ** track.bits - 1;
    const points = new Float32Array(whole.length);
    for (let i = 0; i < whole.length; i++) {
      const axis = i % 2;
      points[i] = track.low[axis] + (whole[i] / top) * (track.high[axis] - track.low[axis]);
    }
    return { n: track.n, points };
  };
  const tracks = data.samples.map((sample) => {
    let ready = null;
    return () => (ready ??= Object.fromEntries(["box", "5", "68", "478"].filter((n) => sample[n]).map((n) => [n, unpack(sample[n])])));
  });
  const STYLE = { "478": ["rgba(255,255,255,.55)", 0.8], "68": ["#35e0d0", 1.5], "5": ["#ff4fa3", 2.6] };
  const drawn = () => new Set(all("#filters input[name=draw]:checked").map((box) => box.value));

  // Where the track stands at a frame of the clip: linear between the two nearest of its frames.
  const at = (track, sample, frame) => {
    const last = sample.seen.length - 1;
    const place = Math.min(Math.max(frame / sample.step, 0), last);
    const left = Math.floor(place);
    const right = Math.min(left + 1, last);
    if (sample.seen[left] !== "1") return null;
    const share = sample.seen[right] === "1" ? place - left : 0;
    const size = 2 * track.n;
    return (i) => track.points[left * size + i] * (1 - share) + track.points[right * size + i] * share;
  };

  const paint = (canvas, media, index, frame) => {
    const sample = data.samples[index];
    const box = canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    canvas.width = box.width * ratio;
    canvas.height = box.height * ratio;
    if (!sample.seen || !box.width) return;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const scale = Math.min(box.width / media.width, box.height / media.height);
    const [w, h] = [media.width * scale, media.height * scale];
    const [x0, y0] = [(box.width - w) / 2, (box.height - h) / 2];
    const grow = Math.max(1, w / 420);
    const wanted = drawn();
    const found = tracks[index]();
    for (const name of ["478", "68", "5"]) {
      const point = wanted.has(name) && found[name] && at(found[name], sample, frame);
      if (!point) continue;
      const [colour, radius] = STYLE[name];
      pen.fillStyle = colour;
      pen.beginPath();
      for (let i = 0; i < 2 * found[name].n; i += 2) {
        const [x, y] = [x0 + point(i) * w, y0 + point(i + 1) * h];
        pen.moveTo(x + radius * grow, y);
        pen.arc(x, y, radius * grow, 0, 7);
      }
      pen.fill();
    }
    const corner = wanted.has("box") && found.box && at(found.box, sample, frame);
    if (corner) {
      pen.strokeStyle = "#ffd23f";
      pen.lineWidth = 1.6 * grow;
      pen.strokeRect(x0 + corner(0) * w, y0 + corner(1) * h, (corner(2) - corner(0)) * w, (corner(3) - corner(1)) * h);
    }
  };

  // Keeps the drawing and the line in the waveform with the picture while a clip plays.
  const follow = (stage, index, wave) => {
    const media = stage.querySelector("video, img");
    const canvas = stage.querySelector("canvas");
    if (!media || !canvas) return () => {};
    const size = { width: media.getAttribute("width"), height: media.getAttribute("height") };
    const sample = data.samples[index];
    const head = wave && wave.querySelector(".head");
    const part = wave && wave.querySelector(".part");
    let started = false;
    const frame = () => (media.tagName === "VIDEO" && started ? media.currentTime * sample.fps : sample.still || 0);
    const draw = () => {
      paint(canvas, size, index, frame());
      if (head && part && media.duration) {
        const x = +part.getAttribute("x") + (+part.getAttribute("width") * media.currentTime) / media.duration;
        head.setAttribute("x1", x);
        head.setAttribute("x2", x);
      }
    };
    const loop = () => {
      draw();
      if (!media.paused && media.isConnected) requestAnimationFrame(loop);
    };
    if (media.tagName === "VIDEO") {
      media.addEventListener("play", () => { started = true; loop(); });
      media.addEventListener("seeked", draw);
    }
    return draw;
  };

  const painters = cards.map((card, index) => {
    const stage = card.querySelector(".stage");
    const video = stage.querySelector("video");
    const quiet = () => { if (video) video.pause(); };
    const start = () => { if (video) { video.muted = true; video.play().catch(() => {}); } };
    stage.addEventListener("mouseenter", start);
    stage.addEventListener("mouseleave", quiet);
    stage.addEventListener("focus", start);
    stage.addEventListener("blur", quiet);
    stage.addEventListener("click", () => { quiet(); open(index); });
    return follow(stage, index, card.querySelector(".wave"));
  });
  const repaint = () => { for (const [i, draw] of painters.entries()) if (!cards[i].hidden) draw(); if (viewer.open) drawLarge(); };

  // The large view.
  const viewer = by("viewer");
  let shown = 0;
  let drawLarge = () => {};
  const visible = () => cards.map((_, i) => i).filter((i) => !cards[i].hidden);
  const open = (index) => {
    shown = index;
    const card = cards[index];
    const large = by("large");
    const media = card.querySelector(".stage video, .stage img, .stage .nothing").cloneNode(true);
    large.replaceChildren(media, document.createElement("canvas"));
    const wave = card.querySelector(".wave");
    by("large-wave").replaceChildren(...(wave ? [wave.cloneNode(true)] : []));
    by("details").replaceChildren(card.querySelector("template").content.cloneNode(true));
    const pictures = card.querySelector(".pictures"); // once in the page, for their size: the large view has a copy
    if (pictures) by("details").querySelector(".pictures-here").replaceChildren(pictures.cloneNode(true));
    const order = visible();
    by("position").textContent = `${order.indexOf(index) + 1} of ${order.length}`;
    if (!viewer.open) viewer.showModal();
    viewer.scrollTop = 0;
    drawLarge = follow(large, index, by("large-wave").querySelector(".wave"));
    drawLarge();
    if (media.tagName === "VIDEO") {
      media.controls = true;
      media.muted = false;
      media.play().catch(() => { media.muted = true; media.play().catch(() => {}); });
    }
  };
  const turn = (by_) => {
    const order = visible();
    if (order.length) open(order[(order.indexOf(shown) + by_ + order.length) % order.length]);
  };
  by("before").addEventListener("click", () => turn(-1));
  by("after").addEventListener("click", () => turn(1));
  by("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => { by("large").replaceChildren(); cards[shown].querySelector(".stage").focus(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.target.tagName === "VIDEO") return;
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });

  // Filters. Within a group of buttons any pressed one will do; groups and ranges must all hold.
  const state = { split: new Set(), status: new Set(), person: null, text: "", ranges: new Map() };
  const measures = Object.keys(data.numbers).filter((name) => data.numbers[name].some((v) => v !== null));
  const ends = Object.fromEntries(measures.map((name) => {
    const known = data.numbers[name].filter((v) => v !== null);
    return [name, [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))]];
  }));
  for (const name of measures) if (ends[name][0] < ends[name][1]) by("measure").append(new Option(name, name));

  const passes = (i) => {
    if (state.split.size && !state.split.has(data.split[i])) return false;
    if (state.status.size && !state.status.has(data.status[i])) return false;
    if (state.person !== null && data.person[i] !== state.person) return false;
    if (state.text && !state.text.split(/\s+/).every((word) => data.text[i].includes(word))) return false;
    for (const [name, [low, high]] of state.ranges) {
      const v = data.numbers[name][i];
      if (v === null || v < low || v > high) return false;
    }
    return true;
  };

  const rule = () => {
    const parts = [];
    const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    for (const [name, [low, high]] of state.ranges) {
      if (!name.includes(".")) continue; // not a stored number
      if (low > ends[name][0]) parts.push(`--where "${name} >= ${exact(low)}"`);
      if (high < ends[name][1]) parts.push(`--where "${name} <= ${exact(high)}"`);
    }
    if (state.split.size === 1) parts.push(`--where "source.split == ${[...state.split][0]}"`);
    if (state.person !== null) parts.push(`--where ${quote(`source.person == ${state.person}`)}`);
    return parts.length ? `likeness data select DATASET NAME ${parts.join(" ")}` : "";
  };

  const chart = (figure, matching, active) => {
    const low = +figure.dataset.low;
    const reach = +figure.dataset.high - low;
    const svg = figure.querySelector("svg");
    const counts = new Array(BINS).fill(0);
    const totals = new Array(BINS).fill(0);
    data.numbers[figure.dataset.measure].forEach((v, i) => {
      if (v === null) return;
      const bin = Math.min(Math.floor(((v - low) / reach) * BINS), BINS - 1);
      totals[bin] += 1;
      if (matching[i]) counts[bin] += 1;
    });
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    const top = Math.max(...totals, 1);
    const bars = active ? counts.map((count, bin) => {
      const bar = document.createElementNS(svg.namespaceURI, "rect");
      const tall = count ? Math.max((count / top) * (height - 12), 1.5) : 0;
      for (const [k, v] of Object.entries({ x: (bin * width) / BINS + 0.5, y: height - 8 - tall, width: width / BINS - 1, height: tall }))
        bar.setAttribute(k, v);
      return bar;
    }) : [];
    svg.querySelector(".matches").replaceChildren(...bars);
    figure.classList.toggle("on", state.ranges.has(figure.dataset.measure));
  };

  const apply = () => {
    const matching = data.split.map((_, i) => passes(i));
    const active = state.split.size + state.status.size + state.ranges.size > 0 || state.person !== null || state.text !== "";
    let count = 0;
    cards.forEach((card, i) => {
      card.hidden = !matching[data.samples[i].line];
      count += !card.hidden;
    });
    const rows = matching.filter(Boolean).length;
    by("count").textContent = count;
    by("rows-count").textContent = data.all ? `; ${rows} of ${matching.length} rows of the dataset pass` : "";
    by("none").hidden = count > 0 || !cards.length;
    by("none-rows").textContent = data.all && rows ? `${rows} rows do; make the report with more --samples to see them.` : "";
    by("reset").hidden = !active;
    by("rule").textContent = rule();
    by("rule").hidden = !rule();
    document.body.classList.toggle("filtered", active && data.all);
    if (data.all) for (const figure of all("figure[data-measure]")) chart(figure, matching, active);
    showRanges();
    repaint();
  };

  const showRanges = () => {
    const name = by("measure").value;
    by("range").hidden = !name;
    by("ranges").replaceChildren(...[...state.ranges].map(([key, [low, high]]) => {
      const off = document.createElement("button");
      off.type = "button";
      off.className = "off chip";
      off.setAttribute("aria-pressed", "true");
      off.textContent = `${key} ${number(low)} – ${number(high)} ✕`;
      off.addEventListener("click", () => { state.ranges.delete(key); apply(); });
      return off;
    }));
    if (!name) return;
    const [least, most] = ends[name];
    const [low, high] = state.ranges.get(name) ?? [least, most];
    by("low").value = Math.round(((low - least) / (most - least)) * STEPS);
    by("high").value = Math.round(((high - least) / (most - least)) * STEPS);
    by("span").textContent = `${number(low)} – ${number(high)}`;
  };

  const slide = (event) => {
    const name = by("measure").value;
    const [least, most] = ends[name];
    let [low, high] = [+by("low").value, +by("high").value];
    if (low > high) [low, high] = event.target.id === "low" ? [low, low] : [high, high];
    const value = (step) => (step <= 0 ? least : step >= STEPS ? most : least + ((most - least) * step) / STEPS);
    if (low <= 0 && high >= STEPS) state.ranges.delete(name);
    else state.ranges.set(name, [value(low), value(high)]);
    apply();
  };

  for (const chip of all("[data-filter]")) {
    chip.addEventListener("click", () => {
      const set = state[chip.dataset.filter];
      if (!set.delete(chip.dataset.value)) set.add(chip.dataset.value);
      chip.setAttribute("aria-pressed", set.has(chip.dataset.value));
      apply();
    });
  }
  by("person").addEventListener("change", () => { state.person = by("person").value ? by("person").value.slice(1) : null; apply(); });
  by("text").addEventListener("input", () => { state.text = by("text").value.trim().toLowerCase(); apply(); });
  by("measure").addEventListener("change", apply);
  by("low").addEventListener("input", slide);
  by("high").addEventListener("input", slide);
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  by("reset").addEventListener("click", () => {
    state.split.clear(); state.status.clear(); state.ranges.clear(); state.person = null; state.text = "";
    by("person").value = by("text").value = by("measure").value = "";
    for (const chip of all("[data-filter]")) chip.setAttribute("aria-pressed", "false");
    apply();
  });
  for (const figure of all("figure[data-measure]")) {
    const name = figure.dataset.measure;
    figure.querySelector(".pick").addEventListener("click", () => { by("measure").value = name; apply(); by("low").focus(); });
    for (const bin of all(".bin", figure)) {
      bin.addEventListener("click", () => {
        const [low, reach] = [+figure.dataset.low, +figure.dataset.high - +figure.dataset.low];
        const place = +bin.dataset.bin;
        const [from, to] = [low + (reach * place) / BINS, place === BINS - 1 ? +figure.dataset.high : low + (reach * (place + 1)) / BINS];
        const now = state.ranges.get(name);
        if (now && now[0] === from && now[1] === to) state.ranges.delete(name);
        else state.ranges.set(name, [from, to]);
        by("measure").value = name;
        apply();
      });
    }
  }
  for (const box of all("input[name=draw]")) {
    box.addEventListener("change", () => { // the same boxes stand in the large view
      for (const twin of all("input[name=draw]")) if (twin.value === box.value) twin.checked = box.checked;
      repaint();
    });
  }
  window.addEventListener("resize", repaint);
  apply();
})();
