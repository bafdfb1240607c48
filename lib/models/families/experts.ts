/** Mixtures of experts: a router gives each token some of many gated units, and weighs what they make of it. */
import { disposeChanges, type ExpertModule } from '../../linear/expert_module';
import type { PartOrder } from '../../linear/expert_parts';
import type { Linear } from '../../linear/linear';
import type { GatedKind } from '../../native/binding';
import {
  cast,
  combineRows,
  disposeRouting,
  gated,
  route,
  routedLinear,
  spreadRows,
  type Routing,
} from '../../ops';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { refuse, type ConfigJson } from '../config/config_json';
import {
  expert,
  vector,
  type ExpertRow,
  type StackedPlace,
  type VectorRow,
  type Weights,
} from '../config/rows';
import { linears, type Run } from './parts';

/** The experts of a block. */
export interface ExpertsConfig {
  /** How many there are. */
  readonly numExperts: number;
  /** How many a token has. */
  readonly expertsPerToken: number;
  /** Width of one of them. */
  readonly expertSize: number;
}

/** What transformers' class has where config.json is silent. */
interface ExpertsDefaults {
  readonly experts: number;
  readonly perToken: number;
  readonly size: number;
}

/** @param chosen the key of how many experts a token has */
export function expertsConfig(
  json: ConfigJson,
  chosen: string,
  { experts, perToken, size }: ExpertsDefaults,
): ExpertsConfig {
  const numExperts = json.width(
    json.get('num_experts') === undefined ? 'num_local_experts' : 'num_experts',
    experts,
  );
  const expertsPerToken = json.positiveInteger(chosen, perToken);
  if (expertsPerToken > numExperts)
    refuse(
      'ERR_FILE',
      `expected ${chosen} of config.json to be at most ${numExperts}, the experts, but received ${expertsPerToken}`,
    );
  return { numExperts, expertsPerToken, expertSize: json.width('moe_intermediate_size', size) };
}

/** The parameters of all experts: gate over up, and down. */
const [gateUp, down] = ['gate_up_proj', 'down_proj'];

/** How the files of a family hold experts. */
interface ExpertFiles {
  /** The path of all experts. Default 'mlp.experts'. */
  readonly path?: string;
  /** The order of gate and up where the experts of a block are one tensor; absent: each has tensors of its own. */
  readonly order?: PartOrder;
  /** Whether they have biases. */
  readonly bias?: boolean;
}

/** The rows of all experts, whose modules are `${path}.${index}.gate_proj`, `up_proj` and `down_proj`. */
export function expertRows(
  { numExperts: experts, expertSize }: ExpertsConfig,
  hiddenSize: number,
  { path = 'mlp.experts', order, bias = false }: ExpertFiles = {},
): Record<string, ExpertRow | VectorRow> {
  const rows: Record<string, ExpertRow | VectorRow> = {};
  const add = (index: number, name: string, parts: readonly string[], out: number, inside: number): void => {
    const stack = `${path}.${name}`;
    for (const [i, part] of parts.entries()) {
      const module = `${path}.${index}.${part}_proj`;
      const placed = (tensor: string): { stacked?: StackedPlace } =>
        order
          ? { stacked: { tensor, layout: order, expert: index, experts, part: i, parts: parts.length } }
          : {};
      const row = expert(stack, part, module, out, inside);
      rows[`${part}.${index}`] = { ...row, ...placed(stack) };
      if (bias) rows[`${part}Bias.${index}`] = { ...vector(module, out, 'bias'), ...placed(`${stack}_bias`) };
    }
  };
  for (let index = 0; index < experts; index++) {
    add(index, gateUp, ['gate', 'up'], expertSize, hiddenSize);
    add(index, down, ['down'], hiddenSize, expertSize);
  }
  return rows;
}

/** What a block with experts reads. */
interface RoutedWeights {
  readonly router: Linear;
  readonly gateUp: ExpertModule;
  readonly down: ExpertModule;
  /** The biases of all experts; absent: they have none. */
  readonly biases?: Readonly<Record<'gate' | 'up' | 'down', readonly Tensor[]>>;
}

/** The biases of a part of each expert. */
function biasesOf(w: Weights, part: string): Tensor[] {
  const found: Tensor[] = [];
  for (let bias; (bias = w[`${part}Bias.${found.length}`]);) found.push(bias as Tensor);
  return found;
}

/** Those of a block whose experts are `path`. */
export const routedWeights = (
  w: Weights & { readonly router: Linear },
  path = 'mlp.experts',
): RoutedWeights => ({
  router: w.router,
  gateUp: w[`${path}.${gateUp}`] as ExpertModule,
  down: w[`${path}.${down}`] as ExpertModule,
  biases: { gate: biasesOf(w, 'gate'), up: biasesOf(w, 'up'), down: biasesOf(w, 'down') },
});

/** How tokens are routed, and the kind of gate. */
interface Routed {
  readonly expertsPerToken: number;
  /** See `route`. */
  readonly amongChosen: boolean;
  readonly kind?: GatedKind;
}

/** f(x), which does not consume x [b, s, d]: of the rows of each adapter alone where one of them changes these experts. */
export function alone(
  run: Run,
  { gateUp, down }: Omit<RoutedWeights, 'router'>,
  x: Tensor,
  f: (run: Run, x: Tensor) => Tensor,
): Tensor {
  const { use } = run;
  const own = use.rows?.distinct.some((adapter) => [gateUp, down].some(({ path }) => adapter.delta(path)));
  if (!own) return f(run, x);
  return use.rows!.each(x, (part, ofRows) =>
    moved(part, (t) => f({ ...run, use: { ...use, ...ofRows, rows: undefined } }, t)),
  );
}

/** The experts of each token: of logits [b, s, experts], which are consumed. */
export function routed(logits: Tensor, { expertsPerToken, amongChosen }: Omit<Routed, 'kind'>): Routing {
  const [batch, length, count] = logits.shape as [number, number, number];
  const flat = moved(
    moved(logits, (t) => cast(t, 'f32')),
    (t) => t.reshape([batch * length, count]),
  );
  return moved(flat, (t) => route(t, expertsPerToken, amongChosen));
}

/** Σ over the experts of a token of their weight · down(f(gate(x)) · up(x)). Consumes the routing, not x [b, s, d]. */
export function expertsOf(
  run: Run,
  x: Tensor,
  routing: Routing,
  w: Omit<RoutedWeights, 'router'>,
  kind: GatedKind = 'silu',
): Tensor {
  const { shape } = x;
  const { biases } = w;
  const rows = moved(x.reshape([shape[0]! * shape[1]!, shape[2]!]), (t) => spreadRows(t, routing));
  const [gate, up] = products(run, rows, routing, w.gateUp, [biases?.gate, biases?.up]) as [Tensor, Tensor];
  rows.dispose();
  const activated = gated(gate, up, kind);
  gate.dispose();
  up.dispose();
  const made = moved(activated, (t) => products(run, t, routing, w.down, [biases?.down])[0]!);
  const sum = moved(made, (t) => combineRows(t, routing));
  disposeRouting(routing);
  return moved(sum, (t) => t.reshape(shape));
}

/** What the experts make of x, which they and their router read. Consumes x [b, s, d]. */
export const routedMlp = (run: Run, x: Tensor, w: RoutedWeights, options: Routed): Tensor =>
  moved(x, (all) =>
    alone(run, w, all, (own, t) =>
      expertsOf(own, t, routed(linears(own, t, [w.router])[0], options), w, options.kind),
    ),
  );

/** The products of rows with each part of the matrices of their experts, as an adapter changes them. */
function products(
  { use: { adapter, phase } }: Run,
  x: Tensor,
  { offsets }: Routing,
  module: ExpertModule,
  biases: readonly (readonly Tensor[] | undefined)[],
): Tensor[] {
  const applied = adapter?.applied(module.path);
  const changes = applied ? module.changes(applied) : [];
  const results = module.weights.map((weights, i) =>
    routedLinear(x, offsets, weights, { change: changes[i], biases: biases[i], phase }),
  );
  disposeChanges(changes);
  return results;
}
