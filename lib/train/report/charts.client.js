// Draws the charts of a report out of the numbers that stand in the page.
(() => {
  const { charts } = JSON.parse(document.getElementById('numbers').textContent);
  const property = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colourOf = (colour) =>
    typeof colour === 'number' ? `hsl(${colour}, 65%, 50%)` : property(`--${colour}`);
  const series = ({ label, colour, marked }, places) => ({
    label,
    stroke: () => colourOf(colour),
    width: 1.5,
    spanGaps: true,
    points: { show: marked || places < 40 },
    value: (_, value) => (value === null ? '–' : value.toPrecision(4)),
  });
  const axis = {
    stroke: () => property('--quiet'),
    grid: { stroke: () => property('--line'), width: 1 },
    ticks: { stroke: () => property('--line'), width: 1 },
  };
  const places = ({ at, doubling }) =>
    doubling
      ? { ...axis, splits: () => at, filter: () => at, values: (_, values) => values.map(String) }
      : {
          ...axis,
          incrs: [1, 2, 5, 10, 20, 50].flatMap((n) => [n, n * 100, n * 10000]).sort((a, b) => a - b),
        };
  const drawn = [];
  for (const [name, chart] of Object.entries(charts)) {
    const place = document.getElementById(name);
    const size = () => ({ width: Math.max(place.clientWidth, 200), height: 240 });
    const options = {
      ...size(),
      scales: { x: { time: false, ...(chart.doubling ? { distr: 3, log: 2 } : {}) } },
      series: [{ label: chart.label }, ...chart.lines.map((line) => series(line, chart.at.length))],
      axes: [
        places(chart),
        {
          ...axis,
          size: 68,
          values: (_, values) => values.map((value) => String(Number(value.toPrecision(4)))),
        },
      ],
      cursor: { sync: { key: chart.label } },
    };
    const plot = new uPlot(options, [chart.at, ...chart.lines.map(({ values }) => values)], place);
    drawn.push({ plot, size });
  }
  addEventListener('resize', () => {
    for (const { plot, size } of drawn) plot.setSize(size());
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    for (const { plot } of drawn) plot.redraw(false, true);
  });
})();
