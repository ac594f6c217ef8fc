/* Functions that do not compile here: each has cost somebody a hole. Included by force into every
 * file of ours (see CMakeLists.txt). What to use instead stands beside each. */
#ifndef BERTH_BAN_H
#define BERTH_BAN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#pragma GCC poison strcpy strcat strncat sprintf vsprintf gets /* buf_*, snprintf */
#pragma GCC poison atoi atol atoll sscanf                      /* num_parse */
#pragma GCC poison strtok strtok_r                             /* str_cut */
#pragma GCC poison tmpnam mktemp                               /* path_create */
#pragma GCC poison gmtime localtime ctime asctime              /* time_format */
#pragma GCC poison system popen                                /* an argv and a pidfd */

#endif
