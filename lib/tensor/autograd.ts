/**
 * The tape. An op whose inputs require a gradient leaves a node; backward() walks the nodes in reverse order
 * of their making and frees each as it goes. Nodes hold their own references to what they saved, never the
 * tensors of the program, and go when nothing can reach them any more.
 */
import { atOnce } from './pace';
import { call, entry } from '../native/calls';
import { check, numelOf, refuseF16Training, shapeText } from '../validate';
import { rawBinary, rawCast, rawFilled } from './raw';
import { isRecording, runDetached, Scope } from './scope';
import { alias, edgeOf, handleOf, Parameter, setEdge, storageOf, type Edge, type Tensor } from './tensor';

/**
 * Takes the gradients of the outputs and gives those of the inputs, null where there is none. With `rematerialize` an op may write its last
 * output over the gradient of that output, and return it after the gradients; only ops that record a `rematerialize` are asked to.
 */
export type BackwardFunction = (
  grads: (Tensor | null)[],
  saved: Tensor[],
  rematerialize: boolean,
) => (Tensor | null)[];

/**
 * The first half of a backward function that can run in two. It does without the last saved tensor, whose gradient it gives. The second half,
 * `weightGradients`, gives the gradients that need that tensor; its `grads` are what the first half `kept`. Both halves together give the
 * bits of the whole function.
 */
export type InputGradients = (
  grads: (Tensor | null)[],
  saved: Tensor[],
) => { gradients: (Tensor | null)[]; kept: (Tensor | null)[]; weightGradients: BackwardFunction };

/** Output `index` of a node. */
class Output implements Edge {
  constructor(
    readonly node: Node,
    readonly index: number,
  ) {}

  drop(): void {
    endUse(this.node);
  }
}

/** Every edge is made by record(). */
const outputOf = (tensor: Tensor): Output | null => edgeOf(tensor) as Output | null;

type Source = Output | { readonly leaf: Tensor } | null;

/** What backward() reads: a tensor that is held, or the output of an op that rematerializes it. */
type Saved = Tensor | Output;

interface Node {
  readonly id: number;
  inputs: Source[];
  versions: (readonly [Parameter, number])[];
  saved: Saved[];
  backward: BackwardFunction | null; // null once freed
  inputGradients: InputGradients | null;
  rematerialize: Rematerialization | null;
  /** Nodes that wait for the last output, newest first. The first half of each has run; the second is its `backward` now. */
  waiting: Node[];
  release: (() => void) | null;
  /** Of the outputs; for a node that waits, what its first half kept. */
  grads: (Tensor | null)[];
  /** Live output tensors and nodes that take an output as input. */
  users: number;
}

/** Computes the last output of an op from its saved tensors, with the bits that it had. */
type Rematerialization = (saved: Tensor[]) => Tensor;

interface RecordOptions {
  /** Runs once, when the node is freed. */
  release?: () => void;
  /**
   * For an op whose last output costs little beside those that read it, and which saves what that is computed from. An op
   * that saves this output then holds no memory for it: backward() computes it once more.
   */
  rematerialize?: Rematerialization;
  /** For an op whose last saved tensor is an input that only gradients of other inputs read. Not beside `rematerialize`. */
  inputGradients?: InputGradients | undefined;
}

let created = 0;

/**
 * Records an op, unless nothing is being recorded or no input requires a gradient. What backward() needs of the `saved`
 * tensors stays alive until then, also when the caller disposes its own.
 *
 * @example
 * record([x], [y], [x], ([g], [x]) => [rawUnaryBackward('square', 1, x, g)]);
 */
export function record(
  inputs: readonly Tensor[],
  outputs: readonly Tensor[],
  saved: readonly Tensor[],
  backward: BackwardFunction,
  { release, rematerialize, inputGradients }: RecordOptions = {},
): void {
  if (!needsGrad(inputs)) {
    release?.();
    return;
  }
  const f16 = (t: Tensor): boolean => t.dtype === 'f16';
  if (outputs.some(f16) || inputs.some((t) => f16(t) && t.requiresGrad)) refuseF16Training('autograd');
  const node: Node = {
    id: ++created,
    inputs: inputs.map(sourceOf),
    // Frozen inputs count too, because the gradients of the others are computed with their values.
    versions: inputs
      .filter((x): x is Parameter => x instanceof Parameter)
      .map((x) => [x, x.version] as const),
    saved: saved.map((t) => save(t, inputs)),
    backward,
    inputGradients: inputGradients ?? null,
    rematerialize: rematerialize ?? null,
    waiting: [],
    release: release ?? null,
    grads: outputs.map(() => null),
    users: outputs.length,
  };
  outputs.forEach((out, index) => setEdge(out, new Output(node, index)));
}

/** Whether an op of these inputs would be recorded. */
export function needsGrad(inputs: readonly (Tensor | null | undefined)[]): boolean {
  return isRecording() && inputs.some((x) => x?.requiresGrad);
}

function sourceOf(input: Tensor): Source {
  const edge = outputOf(input);
  if (edge !== null) {
    edge.node.users++;
    return edge;
  }
  return input.requiresGrad ? { leaf: input } : null;
}

const isHeld = (saved: Saved): saved is Tensor => !('node' in saved);

/**
 * A node keeps those that made its inputs alive, and they are freed after its first half. Only one op is rematerialized for a saved tensor,
 * so that a chain of such ops costs no more than twice its time.
 */
function save(t: Tensor, inputs: readonly Tensor[]): Saved {
  const edge = outputOf(t);
  const rematerialized = edge?.node.rematerialize && edge.index === edge.node.grads.length - 1;
  return rematerialized && edge.node.saved.every(isHeld) && inputs.includes(t) ? edge : alias(t);
}

/** Reads what save() kept. A tensor that is rematerialized belongs to the scope of the caller. */
function read(saved: Saved): Tensor {
  return isHeld(saved) ? saved : saved.node.rematerialize!(saved.node.saved.filter(isHeld));
}

/** Counts one output tensor, or one node that takes an output, less; frees what nothing can reach any more. */
function endUse(last: Node): void {
  const unused = [last];
  for (let node = unused.pop(); node !== undefined; node = unused.pop()) {
    if (--node.users > 0) continue;
    for (const input of node.inputs) if (input !== null && 'node' in input) unused.push(input.node);
    free(node);
  }
}

/** Drops what a node holds; backward === null is how a second backward() recognizes it. */
function free(node: Node): void {
  node.backward = null;
  node.inputGradients = null;
  node.inputs = [];
  node.versions = [];
  for (const t of node.saved) if (isHeld(t)) t.dispose();
  node.saved = [];
  node.rematerialize = null;
  node.waiting = [];
  node.release?.();
  node.release = null;
  for (const g of node.grads) g?.dispose();
  node.grads.fill(null);
}

/** @internal Tensor.backward */
export function backward(root: Tensor, g?: Tensor): void {
  const steps = backwardSteps(root, g);
  entry(() => atOnce(steps));
}

/**
 * The same, with a yield after each node. Between two steps the program may do other things, but it must not change a
 * parameter that the graph reads: that is an error at the next node which reads it.
 */
export function* backwardSteps(root: Tensor, g?: Tensor): Generator<void, void, void> {
  handleOf(root, 'backward', 'the tensor');
  const { requiresGrad } = root;
  check(requiresGrad, 'backward', 'this tensor depends on nothing that requires a gradient');
  if (g === undefined) {
    check(
      root.numel === 1,
      'backward',
      () =>
        `expected a tensor of one element, or its gradient as argument, but received ${shapeText(root.shape)}`,
    );
  } else {
    handleOf(g, 'backward', 'g');
    check(
      shapeText(g.shape) === shapeText(root.shape) && g.dtype !== 'i32',
      'backward',
      () => `expected g to be a float tensor of shape ${shapeText(root.shape)} but received ${g.toString()}`,
    );
    check(
      g.device === root.device,
      'backward',
      `expected g on ${root.device} but received one on ${g.device}`,
    );
  }
  const edge = outputOf(root);
  const seed = (): Tensor => runDetached(null, () => (g === undefined ? ones(root) : seedOf(g, root)));
  if (edge === null) return addToLeaf(root, seed());
  const nodes = reachable([edge.node]);
  edge.node.grads[edge.index] = seed();
  yield* run(nodes);
}

/** The same of several outputs of one graph, each of which has its gradient `gs[i]`, or none. One that is listed twice has it once. */
export function backwardOf(roots: readonly Tensor[], gs: readonly (Tensor | null)[]): void {
  const seeded = roots.flatMap((root, i) => (gs[i] && root.requiresGrad ? [{ root, g: gs[i] }] : []));
  const nodes = reachable(seeded.flatMap(({ root }) => outputOf(root)?.node ?? []));
  for (const { root, g } of seeded) {
    const edge = outputOf(root);
    const seed = runDetached(null, () => seedOf(g, root));
    if (edge === null) addToLeaf(root, seed);
    else edge.node.grads[edge.index] = seed;
  }
  entry(() => atOnce(run(nodes)));
}

function ones(root: Tensor): Tensor {
  return rawFilled(root.shape, 1, root.dtype, root.device);
}

function seedOf(g: Tensor, root: Tensor): Tensor {
  return g.dtype === root.dtype ? alias(g) : rawCast(g, root.dtype);
}

/** The nodes below, newest first; throws when one was used up or a parameter has changed since. */
function reachable(roots: readonly Node[]): Node[] {
  const seen = new Set<Node>(roots);
  for (const node of seen) {
    check(
      node.backward !== null,
      'backward',
      'the graph was freed by an earlier backward(); compute the loss again',
    );
    checkVersions(node);
    for (const input of node.inputs) if (input !== null && 'node' in input) seen.add(input.node);
  }
  return [...seen].sort((a, b) => b.id - a.id);
}

function checkVersions(node: Node): void {
  for (const [parameter, version] of node.versions) {
    const label = parameter.name ? ` '${parameter.name}'` : '';
    check(
      parameter.version === version,
      'backward',
      `the parameter${label} was changed by a step() after this graph was recorded; compute the loss again`,
    );
  }
}

function* run(nodes: readonly Node[]): Generator<void, void, void> {
  try {
    for (const node of nodes) {
      const { waiting } = node;
      checkVersions(node); // again, because the program may have run since the last step
      step(node);
      yield;
      for (const late of waiting) {
        checkVersions(late);
        step(late);
        yield;
      }
    }
  } finally {
    for (const node of nodes) free(node); // also when memory ran out half way
  }
}

function step(node: Node): void {
  if (node.grads.every((g) => g === null) || node.backward === null) return free(node);
  const source = waitsFor(node);
  if (source !== null) return begin(node, node.inputGradients!, source);
  const { inputs, grads, backward } = node;
  const waiting = node.waiting.filter((late) => late.backward !== null);
  const last = grads.at(-1)!;
  const rematerialize = waiting.length > 0 && last !== null && storageOf(last).exclusive;
  const results = gradientsOf(node, () => {
    const saved = node.saved.map(read);
    const gradients = backward([...grads], saved, rematerialize);
    const output = waiting.length > 0 ? (gradients[inputs.length] ?? node.rematerialize!(saved)) : null;
    for (const late of waiting) late.saved.splice(-1, 1, alias(output!));
    return gradients.slice(0, inputs.length);
  });
  addUp(inputs, results);
}

/**
 * The op whose output is the last saved tensor of a node, where its backward function shall run between the two halves of the node's: it reads
 * what that output is computed from anyway. The second half must then have no gradient for a node that comes before that op.
 */
function waitsFor({ inputGradients, saved, inputs }: Node): Node | null {
  const last = saved.at(-1);
  if (inputGradients === null || last === undefined || isHeld(last)) return null;
  const comesLater = (source: Source): boolean =>
    source === null || source === last || 'leaf' in source || source.node.id < last.node.id;
  return inputs.every(comesLater) ? last.node : null;
}

/** Runs the first half of a node's backward function; the node then waits for `source`. */
function begin(node: Node, inputGradients: InputGradients, source: Node): void {
  let kept: (Tensor | null)[] = [];
  const results = gradientsOf(null, () => {
    const half = inputGradients([...node.grads], node.saved.slice(0, -1).map(read));
    kept = half.kept.map((t) => t && alias(t));
    node.backward = half.weightGradients;
    return half.gradients;
  });
  for (const g of node.grads) g?.dispose();
  node.grads = kept;
  node.inputGradients = null;
  source.waiting.push(node);
  addUp(node.inputs, results);
}

/** The gradients that `compute` returns, without the other tensors that it makes. The node that `ends` with it is freed. */
function gradientsOf(ends: Node | null, compute: () => (Tensor | null)[]): (Tensor | null)[] {
  const scope = new Scope(null);
  try {
    return runDetached(scope, compute).map((g) => g && alias(g));
  } finally {
    scope.close();
    if (ends) free(ends); // before the gradients are added up, so that this is their only holder
  }
}

/** Adds gradients to those of the inputs. Takes ownership. */
function addUp(inputs: readonly Source[], gradients: readonly (Tensor | null)[]): void {
  inputs.forEach((source, i) => {
    const g = gradients[i] ?? null;
    if (g === null) return;
    if (source === null) g.dispose();
    else if ('leaf' in source) addToLeaf(source.leaf, g);
    else source.node.grads[source.index] = sumOf(source.node.grads[source.index]!, g);
  });
}

/** Adds up two gradients, in place where one of them has no other holder. Takes ownership of both. */
function sumOf(a: Tensor | null, b: Tensor): Tensor {
  if (a === null) return b;
  for (const [into, from] of [[a, b] as const, [b, a] as const]) {
    if (!storageOf(into).exclusive || into.dtype !== from.dtype) continue;
    call().accumulate(from.handle, into.handle);
    from.dispose();
    return into;
  }
  const out = runDetached(null, () => rawBinary('add', a, b, a.dtype, a.shape));
  a.dispose();
  b.dispose();
  return out;
}

function addToLeaf(leaf: Tensor, g: Tensor): void {
  if (leaf.disposed) return g.dispose();
  check(
    numelOf(g.shape) === leaf.numel,
    'backward',
    () => `expected a gradient of shape ${shapeText(leaf.shape)} but received ${shapeText(g.shape)}`,
  );
  let own = g;
  // Those of a parameter are f32 whatever it is kept in: optimizers, clipping and sums over batches need the bits.
  const dtype = leaf instanceof Parameter ? 'f32' : leaf.dtype;
  if (g.dtype !== dtype || (!hasGrad(leaf) && !storageOf(g).exclusive)) {
    own = runDetached(null, () => rawCast(g, dtype));
    g.dispose();
  }
  if (!hasGrad(leaf)) {
    leaf.grad = own;
    return;
  }
  call().accumulate(own.handle, leaf.grad!.handle);
  own.dispose();
}

function hasGrad(leaf: Tensor): boolean {
  return leaf.grad !== null && !leaf.grad.disposed;
}
