/** What optimizers and clipping take as parameters. */
import { handleOf, Parameter } from '../tensor/tensor';
import { check, describe, isListOf } from '../validate';

/** A list of distinct live parameters on one device. */
export function checkParameters(op: string, params: Iterable<Parameter>): Parameter[] {
  check(
    typeof params === 'object' && params !== null && Symbol.iterator in params,
    op,
    `expected a list of parameters but received ${describe(params)}`,
  );
  const list = [...params];
  const seen = new Set<Parameter>();
  list.forEach((p, i) => {
    check(
      p instanceof Parameter,
      op,
      `expected parameter ${i} to be a Parameter (see parameter(x)) but received ${describe(p)}`,
    );
    const name = p.name ? `parameter '${p.name}'` : `parameter ${i}`;
    handleOf(p, op, name);
    check(!seen.has(p), op, `${name} is listed twice`);
    check(
      p.device === list[0]!.device,
      op,
      `expected ${name} on ${list[0]!.device} but received it on ${p.device}`,
    );
    seen.add(p);
  });
  return list;
}

/** The parameters that backward() reached. */
export function withGrad(params: readonly Parameter[]): Parameter[] {
  return params.filter((p) => p.grad !== null && !p.grad.disposed);
}

/** How slowly two averages move. */
export function checkBetas(op: string, betas: unknown): void {
  check(
    isListOf(betas, (b) => typeof b === 'number' && b >= 0 && b < 1) && betas.length === 2,
    op,
    `expected betas to be two numbers of at least 0 and below 1 but received ${describe(betas)}`,
  );
}
