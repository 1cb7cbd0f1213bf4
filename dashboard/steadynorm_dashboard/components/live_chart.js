// Draws a plotly figure into the page and redraws it in place. See live_chart.py.

const loads = new Map();

/** The plotly library at `url`, fetched once a page. */
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

/** The figure in the colours that the page has now: a visitor may switch between light and dark at any time. */
function dressed(figure, host) {
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

/** The clickable thing at the pointer: a heat map's cell, or a marker that is really under it. */
function under(host, points, event) {
  const box = host.getBoundingClientRect();
  const near = ({ data, x, y, xaxis, yaxis }) =>
    data.type !== "scatter" ||
    Math.hypot(
      xaxis.d2p(x) + xaxis._offset - (event.clientX - box.left),
      yaxis.d2p(y) + yaxis._offset - (event.clientY - box.top),
    ) <= NEAR_PX;
  // With one hover label for all panels, the points of every panel are told.
  return points.find((point) => typeof point.customdata === "string" && near(point))?.customdata;
}

function listen(host, { clicks, zooms }, say) {
  if (clicks) {
    host.on("plotly_click", ({ points, event }) => {
      const said = under(host, points, event);
      if (said) say("clicked", said);
    });
    host.on("plotly_clickannotation", ({ annotation }) => {
      if (annotation.name) say("clicked", annotation.name);
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
      if (ends[0] !== undefined && ends[1] !== undefined) say("zoomed", ends.map(String));
      else if (change["xaxis.autorange"]) say("zoomed", []);
    });
  }
}

export default async function draw({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".steadynorm-chart");
  const loaded = load(new URL(data.library, document.baseURI).href);
  if (!data.figure) return; // see preload
  const plotly = await loaded;
  // Nobody looks at a tab in the background: what comes meanwhile is drawn once, when it is looked at.
  host.steadynormNewest = data.figure;
  if (document.hidden) {
    await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
    if (host.steadynormNewest !== data.figure) return;
  }
  const { data: traces, layout } = dressed(JSON.parse(data.figure), host);
  // `react` changes what differs and keeps what the visitor did (zoom, hidden traces) while uirevision is the same.
  await plotly.react(host, traces, layout, { displaylogo: false, responsive: true, ...data.options });
  if (!host.steadynormListens) {
    host.steadynormListens = true; // once, however often the figure is drawn
    listen(host, data, setTriggerValue);
  }
}
