// How a process with work in flight ends: after what is awaited, and not a moment later; or at once.
import { cpu, native } from './common.mjs';

let x = native.random(cpu, 'normal', 1, 0, 0, 1, [256, 256]);
const queue = (count) => {
  for (let i = 0; i < count; i++) x = native.matmul(x, x, false, false, 'f32');
};
process.on('exit', () => console.log('exit'));
switch (process.argv[2]) {
  case 'awaited': // the pending read keeps the process alive
    queue(50);
    void native.read(x).then((buffer) => console.log(buffer.byteLength));
    break;
  case 'queued': // nobody waits for this: the process does not either
    queue(400);
    break;
  case 'released': {
    // Nobody holds the memory that the running op writes, and it is more than is kept: it goes back to the system.
    const blocks = [native.random(cpu, 'normal', 1, 0, 0, 1, [2 ** 25])];
    for (let i = 0; i < 2; i++) blocks.push(native.unary('gelu', 1, blocks[i], 'f32'));
    for (const block of blocks) native.release(block);
    break;
  }
  case 'exit':
    queue(400);
    void native.read(x);
    process.exit(0);
}
