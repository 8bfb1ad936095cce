"use strict";
// Draws the timeline, and says what is under the pointer. All text goes in as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  const seconds = (value) =>
    value >= 1 ? `${value.toPrecision(4)} s` : value >= 1e-3 ? `${(value * 1e3).toPrecision(3)} ms` : `${(value * 1e6).toPrecision(3)} us`;

  function tipOf(box) {
    const tip = box.querySelector(".tip") || box.appendChild(Object.assign(document.createElement("div"), { className: "tip" }));
    tip.hidden = true;
    return (event, text) => {
      tip.hidden = !text;
      if (!text) return;
      tip.textContent = text;
      const frame = box.getBoundingClientRect();
      const x = event.clientX - frame.left + 14;
      tip.style.left = `${Math.max(Math.min(x, frame.width - tip.offsetWidth - 4), 0)}px`;
      tip.style.top = `${event.clientY - frame.top + 14}px`;
    };
  }

  const maps = document.querySelector(".maps");
  if (maps) {
    const show = tipOf(maps);
    for (const map of maps.querySelectorAll("svg.heat")) {
      const cell = Number(map.dataset.cell), margin = Number(map.dataset.margin);
      map.addEventListener("pointerleave", (event) => show(event, ""));
      map.addEventListener("pointermove", (event) => {
        const frame = map.getBoundingClientRect();
        const scale = map.viewBox.baseVal.width / frame.width;
        const j = Math.floor(((event.clientX - frame.left) * scale - margin) / cell);
        const i = Math.floor(((event.clientY - frame.top) * scale - margin) / cell);
        const row = data.waited[i];
        if (!row || row[j] === undefined) return show(event, "");
        const count = data.messages[i][j];
        const each = count ? `\n${count} messages, ${seconds(row[j] / count)} each` : "";
        show(event, `rank ${i} waited ${seconds(row[j])} for rank ${j}${each}`);
      });
    }
  }

  const canvas = document.querySelector("canvas");
  if (!canvas) return;
  const box = canvas.parentElement, show = tipOf(box), pen = canvas.getContext("2d");
  const ranks = Object.keys(data.calls).map(Number).sort((a, b) => a - b);
  const height = Math.min(Math.max(Math.floor(720 / ranks.length), 4), 28);
  const left = 70, bottom = 26, top = 14;
  const kinds = ["collective", "send", "receive", "wait", "other"];
  const kindOf = data.names.map((name) =>
    /wait|test/i.test(name) ? 3 : /recv|probe/i.test(name) ? 2 : /send/i.test(name) ? 1
      : /bcast|gather|scatter|alltoall|reduce|scan|barrier|neighbor/i.test(name) ? 0 : 4);
  let first = Infinity, last = 0;
  for (const calls of Object.values(data.calls))
    for (const [begin, end] of calls) {
      first = Math.min(first, begin);
      last = Math.max(last, end === null ? data.seconds : end);
    }
  if (!(last > first)) last = first + 1e-3;
  let from = first, to = last;
  let colours, ink, quiet, line, alarm;

  function learnColours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    colours = kinds.map(of);
    [ink, quiet, line, alarm] = ["ink", "quiet", "line", "alarm"].map(of);
    const legend = document.querySelector(".legend");
    const used = new Set(kindOf);
    legend.replaceChildren(...kinds.flatMap((kind, number) => (used.has(number) ? [entry(kind, colours[number])] : [])),
      entry("under way when the report was written", alarm));
  }

  function entry(text, colour) {
    const span = document.createElement("span"), mark = document.createElement("i");
    mark.style.background = colour;
    span.append(mark, text);
    return span;
  }

  const width = () => canvas.clientWidth - left - 8;
  const xOf = (time) => left + ((time - from) / (to - from)) * width();
  const timeOf = (x) => from + ((x - left) / width()) * (to - from);

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const tall = top + ranks.length * height + bottom;
    canvas.style.height = `${tall}px`;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = tall * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, canvas.clientWidth, tall);
    pen.font = "12px system-ui, sans-serif";
    drawAxis(tall);
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, width() + 8, tall - bottom + 4);
    pen.clip();
    ranks.forEach((rank, place) => drawRank(data.calls[rank], top + place * height));
    for (const { time } of data.verdicts) {
      pen.fillStyle = alarm;
      pen.fillRect(xOf(time) - 1, 0, 2, tall - bottom);
    }
    pen.restore();
    pen.fillStyle = quiet;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    const step = Math.max(Math.ceil(14 / height), 1);
    ranks.forEach((rank, place) => {
      if (place % step === 0) pen.fillText(`rank ${rank}`, left - 8, top + (place + 0.5) * height);
    });
  }

  function drawRank(calls, y) {
    const gap = height > 8 ? 2 : height > 4 ? 1 : 0.5;
    pen.fillStyle = line;
    pen.fillRect(left, y + height / 2 - 0.25, width(), 0.5);
    for (const [begin, end, name] of calls) {
      const until = end === null ? data.seconds : end;
      if (until < from || begin > to) continue;
      const x = Math.max(xOf(begin), left - 2);
      pen.fillStyle = end === null ? alarm : colours[kindOf[name]];
      pen.fillRect(x, y + gap / 2, Math.max(Math.min(xOf(until), left + width() + 8) - x, 0.7), height - gap);
    }
  }

  function drawAxis(tall) {
    const rough = (to - from) / Math.max(width() / 110, 1);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((each) => each * power >= rough);
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
      pen.fillStyle = line;
      pen.fillRect(xOf(time), top, 1, tall - bottom - top);
      pen.fillStyle = quiet;
      pen.fillText(`${time.toFixed(digits)} s`, xOf(time), tall - bottom + 8);
    }
  }

  function zoom(factor, about = (from + to) / 2) {
    const span = Math.min(Math.max((to - from) * factor, 1e-6), last - first);
    const share = (about - from) / (to - from);
    move(about - share * span - from, span);
  }

  function move(by, span = to - from) {
    from = Math.min(Math.max(from + by, first), last - span);
    to = from + span;
    requestAnimationFrame(draw);
  }

  function callAt(x, y) {
    const rank = ranks[Math.floor((y - top) / height)];
    if (rank === undefined || x < left) return null;
    const time = timeOf(x), slack = (1.5 * (to - from)) / width();
    let best = null, distance = slack;
    for (const call of data.calls[rank]) {
      const until = call[1] === null ? data.seconds : call[1];
      const away = Math.max(call[0] - time, time - until, 0);
      if (away <= distance) [best, distance] = [call, away];
    }
    return best && [rank, best];
  }

  function describe([rank, [begin, end, name, comm, sequence, dest, source, bytes]]) {
    const parts = [`rank ${rank}: ${data.names[name]}${sequence ? ` #${sequence}` : ""}`];
    parts.push(end === null ? `since ${seconds(data.seconds - begin)}, not ended` : `${seconds(end - begin)}, at ${begin.toFixed(6)} s`);
    const peers = [];
    if (dest >= 0) peers.push(sequence ? `root ${dest}` : `to ${dest}`);
    if (source === -2) peers.push("from any");
    if (source >= 0) peers.push(`from ${source}`);
    if (bytes >= 0) peers.push(`${bytes} bytes`);
    parts.push([...peers, `communicator ${comm}`].join(", "));
    return parts.join("\n");
  }

  const actions = {
    in: () => zoom(0.5), out: () => zoom(2), all: () => zoom(Infinity),
    left: () => move((from - to) / 3), right: () => move((to - from) / 3),
  };
  const keys = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", "0": "all" };
  for (const button of document.querySelectorAll("[data-do]"))
    button.addEventListener("click", actions[button.dataset.do]);
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    actions[keys[event.key]]();
  });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, timeOf(event.offsetX));
  }, { passive: false });
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = event.clientX;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointerleave", (event) => show(event, ""));
  canvas.addEventListener("pointermove", (event) => {
    if (held !== null) {
      move(((held - event.clientX) / width()) * (to - from));
      held = event.clientX;
    }
    const found = held === null && callAt(event.offsetX, event.offsetY);
    show(event, found ? describe(found) : "");
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { learnColours(); draw(); });
  new ResizeObserver(draw).observe(box);
  learnColours();
  draw();
  // A test in a browser reads this.
  document.documentElement.dataset.drawn = `${ranks.length}`;
})();
