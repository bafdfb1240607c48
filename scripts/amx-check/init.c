// The first and only program of the guest: loads tiles.ko, then runs /cpu_tests with what stands in /arguments, one a line,
// NAME=VALUE for its environment and arguments, and says its exit status.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int ok, const char* what) {
  if (ok) return;
  perror(what);
  printf("exit status 127\n");
  fflush(stdout);
  for (;;) pause();
}

// ARCH_REQ_XCOMP_PERM answers that the tiles may be used: this kernel, which left them off, would refuse.
static void allow_tiles(void) {
  struct sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x1023, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  struct sock_fprog program = {sizeof rules / sizeof rules[0], rules};
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp");
}

static void run_tests(void) {
  static char text[4096];
  char* arguments[64] = {"/cpu_tests"};
  FILE* file = fopen("/arguments", "r");
  must(file != NULL && fread(text, 1, sizeof text - 1, file) > 0, "/arguments");
  int count = 1;
  for (char* line = strtok(text, "\n"); line != NULL && count < 63; line = strtok(NULL, "\n")) {
    if (line[0] == '-') {
      arguments[count++] = line;
    } else {
      putenv(line);
    }
  }
  // A thread that has begun a product is not interrupted by another, which would find its tiles, and change them.
  const struct sched_param priority = {.sched_priority = 1};
  must(sched_setscheduler(0, SCHED_FIFO, &priority) == 0, "SCHED_FIFO");
  allow_tiles();
  execv(arguments[0], arguments);
  must(0, arguments[0]);
}

int main(void) {
  mkdir("/proc", 0755);
  mkdir("/tmp", 0755);
  must(mount("proc", "/proc", "proc", 0, NULL) == 0, "/proc");
  // By default a FIFO task leaves a twentieth of each second to others.
  const int limit = open("/proc/sys/kernel/sched_rt_runtime_us", O_WRONLY);
  must(limit >= 0 && write(limit, "-1", 2) == 2, "sched_rt_runtime_us");
  const int module = open("/tiles.ko", O_RDONLY);
  must(module >= 0 && syscall(SYS_finit_module, module, "", 0) == 0, "/tiles.ko");
  const pid_t tests = fork();
  must(tests >= 0, "fork");
  if (tests == 0) run_tests();
  int status = 0;
  must(waitpid(tests, &status, 0) == tests, "waitpid");
  printf("exit status %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  fflush(stdout);
  for (;;) pause();
}
