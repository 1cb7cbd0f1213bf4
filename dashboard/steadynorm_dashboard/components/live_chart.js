// Draws a plotly figure and updates it in place, where it differs to the eye. See live_chart.py and drawn_chart.js.

const CONFIG = {
  displaylogo: false,
  modeBarButtons: [["zoom2d", "pan2d", "autoScale2d", "resetScale2d"]],
};
// A finger scrolls the page, so that a chart is zoomed by buttons.
const TOUCH = { ...CONFIG, displayModeBar: true, modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]] };
const FOLLOWER = { ...CONFIG, displayModeBar: false };
const FINGER = matchMedia("(pointer: coarse)");

const loads = new Map();

/** The plotly library at `url`, loaded once per page. */
function load(url) {
  if (!loads.has(url)) {
    loads.set(
      url,
      new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = url;
        script.onload = () => resolve(window.Plotly);
        script.onerror = () => reject(new Error(`cannot load ${url}`));
        document.head.append(script);
      }),
    );
  }
  return loads.get(url);
}

/** Applies the page's current colors: a visitor may switch between light and dark at any time. */
function themed(figure, host) {
  const style = getComputedStyle(host);
  const color = (name) => style.getPropertyValue(name).trim() || undefined;
  const text = color("--st-text-color");
  const ground = color("--st-background-color");
  const layout = figure.layout;
  const edge = color("--st-border-color");
  layout.font = { family: color("--st-font"), size: 12, color: text };
  layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
  layout.hoverlabel = { bgcolor: color("--st-secondary-background-color"), bordercolor: edge, font: layout.font };
  const quiet = color("--st-gray-text-color");
  layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: text };
  for (const note of layout.annotations ?? []) if (note.name) note.font.color = quiet; // of a change
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    Object.assign(layout[name], { gridcolor: edge, linecolor: edge, zerolinecolor: edge });
  }
  for (const trace of figure.data) {
    if (trace.marker?.line) trace.marker.line.color = ground;
  }
  return figure;
}

const MODE_BAR_PX = 24; // where it is always shown; with a mouse it is above the chart while that is pointed at

const NEAR_PX = 14;

/** The key of the heat map cell or marker at the pointer. */
function under(host, points, event) {
  const box = host.getBoundingClientRect();
  const near = ({ data, x, y, xaxis, yaxis }) =>
    data.type !== "scatter" ||
    Math.hypot(
      xaxis.d2p(x) + xaxis._offset - (event.clientX - box.left),
      yaxis.d2p(y) + yaxis._offset - (event.clientY - box.top),
    ) <= NEAR_PX;
  // Plotly reports the nearest point, which may be beside the pointer.
  return points.find((point) => typeof point.customdata === "string" && near(point))?.customdata;
}

/** A number as the page writes it: four digits, and an exponent only where it is shorter. */
function written(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2).replace("e+", "e");
  return value.toLocaleString("en-US", { maximumSignificantDigits: size < 1e4 ? 4 : 7 });
}

/** The charts with which `host` shares its x axis, itself among them. */
function together(host) {
  const group = host.dataset.group;
  return group ? [...document.querySelectorAll(`.steadynorm-chart[data-group="${CSS.escape(group)}"]`)] : [host];
}

/** The lines of a chart whose values are shown at the pointer, each with its positions and its band's trace. */
function lines(host) {
  const { xaxis } = host._fullLayout;
  host.steadynormLines ??= host.steadynormNow
    .map((trace, at) => ({ trace, full: host._fullData[at] }))
    .filter(({ trace, full }) => full?.visible === true && trace.hoverinfo === "skip" && !trace.fill)
    .map((one) => ({
      ...one,
      at: one.trace.x.map((x) => xaxis.d2c(x)),
      band: host.steadynormNow.find(({ name, yaxis }) => name === `${one.trace.name}, smallest to largest` && yaxis === one.trace.yaxis),
    }));
  return host.steadynormLines;
}

/** The index of the number in `sorted` that is nearest to `value`; -1 in an empty list. */
function nearest(sorted, value) {
  let low = 0;
  let high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - sorted[low - 1] <= sorted[low] - value ? low - 1 : high;
}

/** Names of traces are escaped, for plotly; as a text node they are shown as they are. */
const unescaped = (name) => name.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

const part = (className, text = "") => Object.assign(document.createElement("span"), { className, textContent: text });

/** One line's value at the pointer, with the smallest and largest one of its bucket. */
function reading({ trace, full, band }, index, named) {
  const value = trace.y[index];
  if (value === null || value === undefined) return null;
  const faint = trace.opacity !== undefined; // behind its moving average, which is named
  const shown = part("steadynorm-reading");
  const key = part("steadynorm-key");
  const dash = { solid: "solid", dot: "dotted" }[full.line.dash] ?? "dashed";
  key.style.borderTop = `2px ${dash} ${full.line.color}`;
  if (faint) key.style.opacity = trace.opacity;
  let words = named && !faint ? `${unescaped(trace.name)} ${written(value)}` : written(value);
  const [high, low] = band ? [band.y[index], band.y[band.y.length - 1 - index]] : [value, value];
  if (!faint && high !== low && band.x[index] === trace.x[index]) words += ` (${written(low)} to ${written(high)})`;
  shown.append(key, words);
  return shown;
}

/** Words for a position on the x axis, from plotly's template for it. */
function position(axis, x) {
  const text = axis.type === "date" ? String(x).slice(0, 19) : Number(x).toLocaleString("en-US", { maximumFractionDigits: 2 });
  return (axis.unifiedhovertitle?.text ?? "%{x}").replace(/%\{[^}]*\}/, text);
}

/** The line with the most points. */
function longest(host) {
  return lines(host).reduce((most, one) => (one.at.length > (most?.at.length ?? 0) ? one : most), null);
}

/** The drawn point nearest to `x`; null in a chart without lines. */
function snapped(host, x) {
  const first = host._fullLayout?.xaxis && longest(host);
  return first ? first.at[nearest(first.at, x)] : null;
}

/** Draws the line through a chart at `x`, in plotly's linear unit, with the values there; null takes it away. */
function cross(host, x) {
  const layout = host._fullLayout;
  let layer = host.querySelector(":scope > .steadynorm-cross");
  if (x === null || !layout?.xaxis) {
    layer?.remove();
    return;
  }
  const { xaxis } = layout;
  const found = lines(host);
  const first = longest(host);
  const px = xaxis.c2p(x);
  layer?.remove();
  if (px < 0 || px > xaxis._length) return;
  layer = Object.assign(document.createElement("div"), { className: "steadynorm-cross" });
  layer.setAttribute("aria-hidden", "true");
  const { t, h } = layout._size;
  const left = xaxis._offset + px;
  const line = part("steadynorm-line");
  Object.assign(line.style, { left: `${left}px`, top: `${t}px`, height: `${h}px` });
  layer.append(line);
  const panels = layout._subplots.yaxis.map((name) => layout[name.replace("y", "yaxis")]).sort((a, b) => a._offset - b._offset);
  panels.forEach((panel, row) => {
    const here = found.filter(({ full }) => full.yaxis === panel._id);
    const shown = here
      .map((one) => reading(one, nearest(one.at, x), here.length > 1 && here.length <= 4))
      .filter((one) => one !== null);
    if (row === 0 && first) {
      shown.unshift(part("steadynorm-where", position(xaxis, first.trace.x[nearest(first.at, x)])));
    }
    if (!shown.length) return;
    const box = part("steadynorm-values");
    box.append(...shown);
    box.style.top = `${panel._offset - 20}px`; // in the row of the title, over no value
    layer.append(box);
  });
  host.append(layer);
  for (const box of layer.querySelectorAll(".steadynorm-values")) {
    const width = box.offsetWidth;
    const beside = left + 5 + width <= host.clientWidth ? left + 5 : left - 5 - width;
    box.style.left = `${Math.max(0, beside)}px`;
  }
}

/** The line follows the pointer through all charts of the group. */
function point(host) {
  let due = 0;
  const show = (pointed) => {
    cancelAnimationFrame(due);
    due = requestAnimationFrame(() => {
      const group = together(host);
      const points = pointed === null ? [] : group.map((one) => snapped(one, pointed));
      const x = points.find((one) => one !== null) ?? pointed;
      for (const one of group) {
        one.steadynormAt = x;
        cross(one, x);
      }
    });
  };
  host.addEventListener("pointermove", (event) => {
    const { xaxis, _size: size } = host._fullLayout ?? {};
    if (!xaxis || event.pointerType === "touch" || event.buttons) return show(null);
    const box = host.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left - xaxis._offset, event.clientY - box.top - size.t];
    show(left >= 0 && left <= xaxis._length && top >= 0 && top <= size.h ? xaxis.p2c(left) : null);
  });
  host.addEventListener("pointerleave", () => show(null));
}

/** The charts that follow show the range of `host`. */
function lead(host, plotly) {
  const { type, range } = host._fullLayout.xaxis;
  for (const one of together(host)) {
    const axis = one._fullLayout?.xaxis;
    if (one === host || !("follows" in one.dataset) || axis?.type !== type) continue;
    if (String(axis.range) !== String(range)) plotly.relayout(one, { "xaxis.range": [...range] });
  }
}

/** The layout of a chart that follows, with the range of the one that leads, if that is drawn. */
function led(host, layout) {
  const leads = together(host).find((one) => !("follows" in one.dataset) && one._fullLayout?.xaxis);
  const type = layout.xaxis.type ?? "linear";
  if (leads?._fullLayout.xaxis.type !== type) return;
  delete layout.xaxis.autorangeoptions;
  layout.xaxis.range = [...leads._fullLayout.xaxis.range];
}

/** A chart is as wide as its place, also where that changes while the window does not: plotly's `responsive` misses it. */
function fill(host, plotly) {
  new ResizeObserver(() => {
    const width = host.clientWidth;
    if (width && host._fullLayout && Math.abs(host._fullLayout.width - width) >= 1) plotly.Plots.resize(host);
  }).observe(host);
}

function listen(host, { clicks, zooms, group, follows }, report, plotly) {
  // Plotly takes every touch for a drag and keeps it from scrolling. A tap still arrives, as the click that follows it.
  host.addEventListener("touchstart", (event) => event.stopPropagation(), { capture: true, passive: true });
  point(host);
  fill(host, plotly);
  host.on("plotly_relayout", () => host.steadynormDraws?.());
  if (group && !follows) host.on("plotly_afterplot", () => lead(host, plotly));
  if (clicks) {
    host.on("plotly_click", ({ points, event }) => {
      const key = under(host, points, event);
      if (key) report("clicked", key);
    });
    host.on("plotly_clickannotation", ({ annotation }) => {
      if (annotation.name) report("clicked", annotation.name);
    });
    const point = (cursor) => {
      for (const area of host.querySelectorAll(".nsewdrag")) area.style.cursor = cursor;
    };
    host.on("plotly_hover", ({ points, event }) => point(event && under(host, points, event) ? "pointer" : ""));
    host.on("plotly_unhover", () => point(""));
  }
  if (zooms) {
    host.on("plotly_relayout", (change) => {
      const ends = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      if (ends[0] !== undefined && ends[1] !== undefined) report("zoomed", ends.map(String));
      else if (change["xaxis.autorange"]) report("zoomed", []);
    });
  }
}

/** What a drawing depends on. */
function appearance(host, figure) {
  const style = getComputedStyle(host);
  const colors = ["--st-text-color", "--st-background-color"].map((name) => style.getPropertyValue(name));
  return [figure, ...colors, host.clientWidth];
}

function describe(figure, { name, description }) {
  const words = figure.querySelector(":scope > p");
  words.id ||= `steadynorm-figure-${Math.random().toString(36).slice(2)}`;
  figure.setAttribute("aria-label", name);
  figure.setAttribute("aria-describedby", words.id);
  if (words.textContent !== description) words.textContent = description;
}

const RESTS = 10;
const MOST_REST_MS = 4000;

/** Waits, after a refresh, ten times as long as it took: on a busy machine charts are drawn less often. Not after a hand. */
async function rest(host) {
  const rested = () => navigator.userActivation?.isActive || performance.now() >= (host.steadynormRests ?? 0);
  while (!rested()) await new Promise((resolve) => setTimeout(resolve, 100));
}

/** Draws; a first drawing, and one slow drawing after a quick one, do not count. */
async function timed(host, drawing) {
  const began = performance.now();
  await drawing();
  const [ended, before] = [performance.now(), host.steadynormTook ?? 0];
  host.steadynormTook = ended - began;
  host.steadynormRests = ended + Math.min(RESTS * Math.min(before, host.steadynormTook), MOST_REST_MS);
}

export default async function draw({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".steadynorm-chart");
  const loaded = load(new URL(data.library, document.baseURI).href);
  if (!data.figure) return; // see preload
  describe(host.parentElement, data);
  const plotly = await loaded;
  // A tab in the background is drawn once, with the newest figure, when it becomes visible.
  host.steadynormNewest = data.figure;
  if (document.hidden) {
    await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    if (host.steadynormNewest !== data.figure) return;
  }
  await rest(host);
  if (host.steadynormNewest !== data.figure) return;
  const look = appearance(host, data.figure);
  if (look.every((one, at) => one === host.steadynormLook?.[at])) return; // of a run that stands still
  host.steadynormLook = look;
  const { data: traces, layout } = fitted(themed(JSON.parse(data.figure), host), host.clientWidth);
  // `react` updates what differs and keeps the zoom and hidden traces while uirevision is the same.
  host.dataset.group = data.group;
  if (data.follows) {
    host.dataset.follows = "";
    led(host, layout);
  }
  if (FINGER.matches && !data.follows) layout.margin.t += MODE_BAR_PX;
  host.steadynormLines = null;
  const config = data.follows ? FOLLOWER : FINGER.matches ? TOUCH : CONFIG;
  const newer = drawing({ data: traces, layout });
  const draws = () => {
    host.steadynormDraws = null;
    host.steadynormDrawn = newer;
    if (data.follows) led(host, layout); // which may be zoomed meanwhile
    return timed(host, () => plotly.react(host, traces, layout, config));
  };
  host.steadynormNow = traces;
  if (looksDrawn(host, host.steadynormDrawn, newer)) host.steadynormDraws = draws; // once it is zoomed
  else await draws();
  document.documentElement.dataset.steadynormDrawn = ""; // see first_chart.py
  if (!host.steadynormListens) {
    host.steadynormListens = true; // once per chart
    listen(host, data, setTriggerValue, plotly);
    host.on("plotly_restyle", () => {
      host.steadynormLines = null; // a trace was hidden or shown
    });
    if (data.group && !data.follows) lead(host, plotly);
  }
  if ((host.steadynormAt ?? null) !== null) cross(host, host.steadynormAt);
}
