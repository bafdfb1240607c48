// A kernel module that lets the guest's programs use tile registers: Bochs 3.0 has no XFD, without which Linux leaves
// them off. Nobody saves them when tasks change (init.c says what that needs).
#include <linux/module.h>

#include <asm/fpu/xcr.h>

static int __init tiles_init(void)
{
	const u64 tiles = 3ull << 17; // their configuration and their data
	xsetbv(XCR_XFEATURE_ENABLED_MASK, xgetbv(XCR_XFEATURE_ENABLED_MASK) | tiles);
	return 0;
}
module_init(tiles_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Turns the tile registers on");
