// Draws a plotly figure and updates it in place. See live_chart.py.

const CONFIG = {
  displaylogo: false,
  responsive: true,
  modeBarButtons: [["zoom2d", "pan2d", "autoScale2d", "resetScale2d"]],
};

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
  layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: edge, activecolor: text };
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    Object.assign(layout[name], { gridcolor: edge, linecolor: edge, zerolinecolor: edge });
  }
  for (const trace of figure.data) {
    if (trace.marker?.line) trace.marker.line.color = ground;
  }
  return figure;
}

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
  // With one hover label for all panels, plotly reports the points of every panel.
  return points.find((point) => typeof point.customdata === "string" && near(point))?.customdata;
}

function listen(host, { clicks, zooms }, report) {
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

export default async function draw({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".steadynorm-chart");
  const loaded = load(new URL(data.library, document.baseURI).href);
  if (!data.figure) return; // see preload
  const plotly = await loaded;
  // A tab in the background is drawn once, with the newest figure, when it becomes visible.
  host.steadynormNewest = data.figure;
  if (document.hidden) {
    await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    if (host.steadynormNewest !== data.figure) return;
  }
  const { data: traces, layout } = themed(JSON.parse(data.figure), host);
  // `react` updates what differs and keeps the zoom and hidden traces while uirevision is the same.
  await plotly.react(host, traces, layout, CONFIG);
  if (!host.steadynormListens) {
    host.steadynormListens = true; // once per chart
    listen(host, data, setTriggerValue);
  }
}
