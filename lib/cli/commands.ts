import { build } from './build';
import { chat } from './chat';
import { compare } from './compare';
import { convert } from './convert';
import { doctor } from './doctor';
import { download } from './download';
import { embed } from './embed';
import { estimate } from './estimate';
import { evaluate } from './eval';
import { generate } from './generate';
import { inspect } from './inspect';
import { merge } from './merge';
import { models } from './models';
import { push } from './push';
import { quantize } from './quantize';
import { serve } from './serve';
import { sweep } from './sweep';
import { train } from './train';
import type { Command } from './command';

/** All commands, in the order of the help. The reference of the command line is generated from this table. */
export const commands: Readonly<Record<string, Command>> = {
  train,
  generate,
  chat,
  serve,
  embed,
  eval: evaluate,
  compare,
  sweep,
  merge,
  convert,
  quantize,
  inspect,
  estimate,
  download,
  push,
  models,
  doctor,
  build,
};
