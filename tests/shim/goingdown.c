/* Shuts the file system down that holds a folder, at once: what it has not written is lost. See ioctl_ext4(2), xfs's goingdown. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

#define SHUTDOWN _IOR('X', 125, uint32_t)
#define WITHOUT_FLUSHING_THE_LOG 2

int main(int count, char **arguments) {
    uint32_t how = WITHOUT_FLUSHING_THE_LOG;
    int folder = count == 2 ? open(arguments[1], O_RDONLY) : -1;
    if (folder < 0 || ioctl(folder, SHUTDOWN, &how)) {
        perror("goingdown");
        return 1;
    }
    return 0;
}
