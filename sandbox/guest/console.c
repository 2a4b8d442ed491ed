#include "layout.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static void put(const char *text, int length, int screen_too)
{
    static int screen = -2;
    if (screen == -2)
        screen = getenv("SCREEN") ? open(getenv("SCREEN"), O_WRONLY | O_NOCTTY) : -1;
    for (int done = 0, n; done < length; done += n)
        if ((n = (int)write(1, text + done, (size_t)(length - done))) < 0)
            break;
    if (screen_too && screen >= 0 && write(screen, text, (size_t)length) < 0)
        screen = -1;
}

void say(int screen_too, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length] = '\n';
    put(line, length + 1, screen_too);
}

/* Raw, without echo: what is sent must not come back as if the guest had said it. */
void quiet_console(void)
{
    struct termios settings;
    if (tcgetattr(0, &settings))
        return;
    cfmakeraw(&settings);
    tcsetattr(0, TCSANOW, &settings);
}
