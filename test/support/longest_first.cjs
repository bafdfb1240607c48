/**
 * The order of test files: those that run whole programs begin, since one of them alone takes minutes and would else end long after the
 * other worker. Jest orders the rest: by how long a file took, or by size in a fresh clone.
 */
const Sequencer = require('@jest/test-sequencer').default;

const longest = /\/test\/e2e\/(acceptance|examples|cuda_\w+)\.test\.ts$/;

module.exports = class extends Sequencer {
  sort(tests) {
    const rank = ({ path }) => (longest.test(path.replaceAll('\\', '/')) ? 0 : 1);
    return [...super.sort(tests)].sort((a, b) => rank(a) - rank(b));
  }
};
