// What a page does beyond being read: filters, values under the pointer, buttons that copy. Without it, everything is shown.
"use strict";
(() => {
  const all = (query, within = document) => [...within.querySelectorAll(query)];
  const root = document.documentElement;
  root.classList.add("live");

  // ---- filters --------------------------------------------------------------------------------------------------
  const controls = document.querySelector(".controls");
  const said = document.createElement("p");
  said.className = "away";
  said.setAttribute("role", "status");
  document.body.append(said);

  const showMeasure = (id) => {
    for (const each of all(".measured")) each.classList.toggle("off", each.id !== id);
    for (const each of all(".measured:not(.off) > details.table")) each.open = true;
  };
  const showMethods = (chosen) => {
    for (const each of all("[data-method]")) {
      const method = each.dataset.method;
      each.classList.toggle("hushed", method !== "" && chosen.known.has(method) && !chosen.on.has(method));
    }
  };
  const showAxis = (kind) => {
    const log = kind === "log";
    for (const group of all(".by-place")) group.classList.toggle("off", log && group.parentNode.querySelector(".by-log") !== null);
    for (const group of all(".by-log")) group.classList.toggle("off", !log);
    for (const point of all("svg.scores .point")) {
      const places = point.dataset.x.split(" ");
      const y = point.getAttribute("transform").match(/[\s,]([-\d.]+)\)/)[1];
      point.setAttribute("transform", `translate(${places[log ? 1 : 0]} ${y})`);
    }
    for (const line of all("svg.scores polyline[data-log]")) {
      line.dataset.place ??= line.getAttribute("points");
      line.setAttribute("points", log ? line.dataset.log : line.dataset.place);
    }
  };
  if (controls) {
    controls.hidden = false;
    const pick = controls.querySelector("#pick");
    const first = document.querySelector(".measured");
    if (first) showMeasure(first.id);
    if (pick) {
      pick.value = first.id;
      pick.addEventListener("change", () => {
        showMeasure(pick.value);
        said.textContent = `Showing ${pick.selectedOptions[0].textContent}`;
      });
    }
    const axes = all("input[name=axis]", controls);
    if (!document.querySelector(".by-log")) controls.querySelector(".axis").remove();
    for (const each of axes) each.addEventListener("change", () => {
      showAxis(each.value);
      said.textContent = `${each.parentNode.textContent.trim()} axis`;
    });
    const boxes = all(".filter input", controls);
    for (const box of boxes) box.addEventListener("change", () => {
      const on = new Set(boxes.filter((one) => one.checked).map((one) => one.value));
      showMethods({ known: new Set(boxes.map((one) => one.value)), on });
      said.textContent = `${on.size} of ${boxes.length} methods shown`;
    });
  }

  // ---- values under the pointer, the finger or the arrow keys ------------------------------------------------------
  const spots = (svg) => {
    const found = all(".point", svg).filter((one) => !one.closest(".hushed")).map((one) => {
      const [x, y] = one.getAttribute("transform").match(/-?[\d.]+/g).map(Number);
      return { x, y, marks: [one], text: one.dataset.text };
    });
    const steps = new Map();
    for (const series of all(".series", svg)) {
      const line = series.querySelector(".line");
      if (series.classList.contains("hushed") || !line.getAttribute("points")) continue;
      const values = line.dataset.v.split(" ").map((pair) => pair.split(",").map(Number));
      line.getAttribute("points").split(" ").forEach((pair, place) => {
        const [x, y] = pair.split(",").map(Number);
        const [step, value] = values[place];
        const at = steps.get(step) ?? { x, y, step, dots: [], lines: [] };
        at.lines.push(`${series.dataset.name}: ${value.toPrecision(3)}`);
        at.dots.push([x, y]);
        steps.set(step, at);
      });
    }
    for (const at of steps.values()) found.push({ ...at, text: `step ${at.step}\n${at.lines.join("\n")}` });
    return found.sort((a, b) => a.x - b.x || a.y - b.y);
  };

  for (const plot of all(".plot")) {
    const svg = plot.querySelector("svg");
    for (const one of all(".point, .series", svg)) {
      const title = one.querySelector("title");
      if (one.classList.contains("point")) one.dataset.text = title.textContent;
      else one.dataset.name = title.textContent;
      title.remove(); // the page shows it itself, at once
    }
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.setAttribute("aria-live", "polite");
    tip.hidden = true;
    plot.append(tip);
    plot.tabIndex = 0;
    plot.setAttribute("role", "group");
    plot.setAttribute("aria-roledescription", "chart");
    plot.setAttribute("aria-label", `${svg.querySelector("title").textContent}. Left and right arrow keys read the values.`);
    const guide = document.createElementNS(svg.namespaceURI, "g");
    guide.setAttribute("class", "guide");
    svg.append(guide);
    let at = -1;

    const show = (spot) => {
      guide.replaceChildren();
      for (const mark of all(".point.lit", svg)) mark.classList.remove("lit");
      tip.hidden = !spot;
      if (!spot) return;
      for (const mark of spot.marks ?? []) mark.classList.add("lit");
      for (const [x, y] of spot.dots ?? []) {
        const dot = document.createElementNS(svg.namespaceURI, "circle");
        for (const [name, value] of Object.entries({ cx: x, cy: y, r: 4.5 })) dot.setAttribute(name, value);
        guide.append(dot);
      }
      tip.textContent = spot.text;
      const box = svg.getBoundingClientRect();
      const scale = box.width / svg.viewBox.baseVal.width;
      const left = spot.x * scale - tip.offsetWidth / 2;
      const above = spot.y * scale - tip.offsetHeight - 14;
      tip.style.left = `${Math.max(0, Math.min(left, box.width - tip.offsetWidth))}px`;
      tip.style.top = `${above > 0 ? above : spot.y * scale + 14}px`;
    };
    const nearest = (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale;
      const y = (event.clientY - box.top) * scale;
      const lines = svg.classList.contains("lines");
      const far = (spot) => (lines ? Math.abs(spot.x - x) : Math.hypot(spot.x - x, spot.y - y));
      const best = spots(svg).reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
      return best && (lines || far(best) < 40) ? best : null;
    };
    svg.addEventListener("pointermove", (event) => show(nearest(event)));
    svg.addEventListener("pointerdown", (event) => show(nearest(event)));
    svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(null); });
    plot.addEventListener("blur", () => { at = -1; show(null); });
    plot.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      const found = spots(svg);
      if (event.key === "Escape") { at = -1; show(null); return; }
      if (event.key === "Home") at = 0;
      else if (event.key === "End") at = found.length - 1;
      else if (event.key in steps) at = at < 0 ? (steps[event.key] > 0 ? 0 : found.length - 1) : at + steps[event.key];
      else return;
      event.preventDefault();
      at = Math.max(0, Math.min(at, found.length - 1));
      show(found[at]);
    });
  }

  // ---- buttons that copy -----------------------------------------------------------------------------------------
  const copied = async (pre) => {
    const text = pre.textContent;
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const range = document.createRange();
      range.selectNodeContents(pre);
      const chosen = window.getSelection();
      chosen.removeAllRanges();
      chosen.addRange(range);
      const done = document.execCommand("copy");
      if (done) chosen.removeAllRanges();
      return done;
    }
  };
  for (const pre of all("pre.copy")) {
    const box = document.createElement("div");
    box.className = "copied";
    pre.replaceWith(box);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${pre.getAttribute("aria-label")}`);
    button.addEventListener("click", async () => {
      button.textContent = (await copied(pre.querySelector("code"))) ? "Copied" : "Press Ctrl+C";
      said.textContent = button.textContent;
      window.setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    box.append(pre, button);
  }

  // ---- print: everything expanded ------------------------------------------------------------------------------------
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const each of closed) each.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const each of closed) each.open = false;
  });
})();
