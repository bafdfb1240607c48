// `npm test`: the tests that read lib/ and answer soon.
module.exports = require('./test/support/tiers.cjs').configOf('everyday');
