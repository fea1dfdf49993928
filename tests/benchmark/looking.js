// What a person with eyes, a keyboard or a screen reader would notice; each check returns a list of faults.
(() => {
  const all = (query, within = document) => [...within.querySelectorAll(query)];
  const seen = (node) => {
    const { width, height } = node.getBoundingClientRect();
    return width + height > 0 && node.checkVisibility({ checkVisibilityCSS: true, checkOpacity: true });
  };
  const named = (node) => `<${node.tagName.toLowerCase()} ${node.id || node.getAttribute("class") || ""}> ${node.textContent.trim().slice(0, 40)}`;
  const channel = (value) => { const c = value / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const colour = (text) => (text.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)];
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const contrast = (one, two) => { const [a, b] = [light(one), light(two)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const found = colour(getComputedStyle(at).backgroundColor);
      layers.push(found);
      if ((found[3] ?? 1) === 1) break;
    }
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const label = (node) => {
    const by = (node.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean);
    return (node.getAttribute("aria-label") || by.map((id) => document.getElementById(id)?.textContent ?? "").join(" ")
      || (node.labels && [...node.labels].map((one) => one.textContent).join(" ")) || node.textContent || node.alt || "").trim();
  };
  window.looking = {
    contrast: () => all("body *").filter((node) => seen(node) && !node.closest("[aria-hidden=true]"))
      .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()))
      .filter((node) => !["SCRIPT", "STYLE", "TITLE", "DESC", "title", "desc", "OPTION"].includes(node.tagName))
      .map((node) => {
        const style = getComputedStyle(node);
        const svg = node.namespaceURI.endsWith("svg");
        const ink = colour(svg ? style.fill : style.color);
        const paper = ground(svg ? node.closest("svg").parentElement : node);
        return [contrast(over(ink, paper), paper), named(node)];
      }).filter(([ratio]) => ratio < 4.5).map(([ratio, text]) => `${ratio.toFixed(2)} ${text}`),
    marks: () => all(".mark, .key .line").filter(seen).map((node) => {
      const style = getComputedStyle(node);
      const ink = colour(style.fill === "none" || node.matches(".line") ? style.stroke : style.fill);
      return [contrast(ink, ground(node.closest("svg").parentElement)), named(node)];
    }).filter(([ratio]) => ratio < 3).map(([ratio, text]) => `${ratio.toFixed(2)} ${text}`),
    names: () => all("a, button, input, select, summary, [tabindex='0'], [role=region], [role=group], nav, fieldset")
      .filter((node) => seen(node) && !label(node)).map(named),
    headings: () => {
      const levels = all("h1, h2, h3, h4").filter(seen).map((node) => Number(node.tagName[1]));
      const faults = levels.filter((level, at) => at && level > levels[at - 1] + 1).map((level) => `h${level} after a gap`);
      return levels.filter((level) => level === 1).length === 1 && levels[0] === 1 ? faults : [...faults, "h1"];
    },
    landmarks: () => ["header", "main", "nav", "footer"].filter((name) => all(name).length !== 1),
    ids: () => { const ids = all("[id]").map((node) => node.id); return ids.filter((id, at) => ids.indexOf(id) !== at); },
    tables: () => all("table").filter((table) => !table.caption || all("th:not([scope])", table).length || !all("th[scope=col]", table).length).map(named),
    pictures: () => [...all("img:not([alt]), img[alt='']"), ...all("svg[role=img]").filter((svg) => !label(svg) || !svg.querySelector("desc"))].map(named),
    outside: () => all("svg.chart").filter(seen).flatMap((svg) => {
      const box = svg.getBoundingClientRect();
      return all("text, .mark, .whisker, .line", svg).filter(seen).filter((node) => {
        const own = node.getBoundingClientRect();
        return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1;
      }).map((node) => `${svg.querySelector("title").textContent}: ${node.getAttribute("class")} ${named(node)}`);
    }),
    wide: () => {
      const room = document.documentElement.clientWidth;
      const held = (node) => node.closest(".scroll, pre, .away, .skip, svg");
      const faults = all("body *").filter((node) => seen(node) && !held(node) && node.getBoundingClientRect().right > room + 1).map(named);
      return document.documentElement.scrollWidth > room ? [`the page is ${document.documentElement.scrollWidth} wide`, ...faults] : faults;
    },
    places: () => all("svg.scores .point").filter(seen).map((node) => { const box = node.getBoundingClientRect(); return [box.x, box.y]; }),
  };
})();
