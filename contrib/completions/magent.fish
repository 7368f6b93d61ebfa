# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_magent_global_optspecs
    string join \n l/listen= p/port= f/socket= a/socket-mode= proxy-protocol-from= s/server= b/backup= k/ketama scheme= hash-tag= hash-seed= hash-filter= lock-with-data= backup-placement= no-flush read-error advertise= advertise-version= Y/auth-file= backend-auth-file= tls-cert= tls-key= tls-client-ca= tls-client-auth= tls-min= backend-tls backend-tls-ca= backend-tls-cert= backend-tls-key= backend-tls-name= backend-tls-verify= hedge-ms= heal-rate= on-overflow= state-dir= u/user= g/group= D/foreground threads= pid-file= v/verbose log-file= on-event= event-webhook= request-ms= fail-ms= probe-ms-min= probe-ms-max= drain-ms= max-value= max-memory= remember-keys= n/max-clients= i/max-backend-connections= h/help V/version
end

function __fish_magent_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_magent_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_magent_using_subcommand
    set -l cmd (__fish_magent_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c magent -n "__fish_magent_needs_command" -s l -l listen -d 'Address to listen on, tls:ADDRESS or unix:PATH; repeat it or use commas' -r -f -a "(__fish_print_hostnames)"
complete -c magent -n "__fish_magent_needs_command" -s p -l port -d 'TCP port to listen on; 0 for none' -r
complete -c magent -n "__fish_magent_needs_command" -s f -l socket -d 'Unix socket to listen on as well, or alone with -p 0' -r -F
complete -c magent -n "__fish_magent_needs_command" -s a -l socket-mode -d 'Permissions of the unix socket, in octal' -r
complete -c magent -n "__fish_magent_needs_command" -l proxy-protocol-from -d 'Load balancers whose PROXY header is believed, such as 10.0.0.0/8,192.0.2.1' -r
complete -c magent -n "__fish_magent_needs_command" -s s -l server -d 'Primary: ADDRESS[:PORT], repeated for each' -r -f -a "(__fish_print_hostnames)"
complete -c magent -n "__fish_magent_needs_command" -s b -l backup -d 'Backup: ADDRESS[:PORT], repeated for each' -r -f -a "(__fish_print_hostnames)"
complete -c magent -n "__fish_magent_needs_command" -l scheme -d 'How keys are placed [default: magent]; "list" explains them all' -r
complete -c magent -n "__fish_magent_needs_command" -l hash-tag -d 'twemproxy\'s hash_tag: place keys by what is between X and Y, such as {}' -r
complete -c magent -n "__fish_magent_needs_command" -l hash-seed -d 'memcached proxy\'s seed, for schemes with xxh3' -r
complete -c magent -n "__fish_magent_needs_command" -l hash-filter -d 'memcached proxy\'s filter: stop:STRING or tags:XY' -r
complete -c magent -n "__fish_magent_needs_command" -l lock-with-data -d 'Keep the locks of PHP\'s sessions with their data: php, or one handler' -r
complete -c magent -n "__fish_magent_needs_command" -l backup-placement -d 'apart: a key\'s backup is on another host than its primary; hash: anywhere' -r -f -a "apart\t''
hash\t''"
complete -c magent -n "__fish_magent_needs_command" -l advertise -d 'Proxies that clients with auto discovery are told, this one included' -r -f -a "(__fish_print_hostnames)"
complete -c magent -n "__fish_magent_needs_command" -l advertise-version -d 'Version of that list [default: when this process started]' -r
complete -c magent -n "__fish_magent_needs_command" -s Y -l auth-file -d 'File of users, as "magent passwd" writes it: clients have to log in' -r -F
complete -c magent -n "__fish_magent_needs_command" -l backend-auth-file -d 'File with user:password for backends that were started with -Y' -r -F
complete -c magent -n "__fish_magent_needs_command" -l tls-cert -d 'Certificate of this proxy, and its chain, for listeners with tls:' -r -F
complete -c magent -n "__fish_magent_needs_command" -l tls-key -d 'Its private key, if that is not in the same file' -r -F
complete -c magent -n "__fish_magent_needs_command" -l tls-client-ca -d 'Authorities whose certificates clients must have' -r -F
complete -c magent -n "__fish_magent_needs_command" -l tls-client-auth -d 'Whether clients need a certificate; required with --tls-client-ca' -r -f -a "none\t''
optional\t''
required\t''"
complete -c magent -n "__fish_magent_needs_command" -l tls-min -d 'Oldest version of TLS that clients may speak' -r -f -a "1.2\t''
1.3\t''"
complete -c magent -n "__fish_magent_needs_command" -l backend-tls-ca -d 'Authorities that servers\' certificates must be of; else those of this machine' -r -F
complete -c magent -n "__fish_magent_needs_command" -l backend-tls-cert -d 'Certificate for servers that want one from their clients' -r -F
complete -c magent -n "__fish_magent_needs_command" -l backend-tls-key -d 'Its private key, if that is not in the same file' -r -F
complete -c magent -n "__fish_magent_needs_command" -l backend-tls-name -d 'Name that servers\' certificates must be for, if not that of -s and -b' -r -f -a "(__fish_print_hostnames)"
complete -c magent -n "__fish_magent_needs_command" -l backend-tls-verify -d 'Whether servers\' certificates are verified' -r -f -a "on\t''
off\t''"
complete -c magent -n "__fish_magent_needs_command" -l hedge-ms -d 'Wait for an answer to a read before the backup is asked too; 0 for never' -r
complete -c magent -n "__fish_magent_needs_command" -l heal-rate -d 'Items, and bytes, a second that are copied to a backend that has returned' -r
complete -c magent -n "__fish_magent_needs_command" -l on-overflow -d 'What becomes of a backend that missed more than can be remembered' -r -f -a "flush\t''
stay-down\t''"
complete -c magent -n "__fish_magent_needs_command" -l state-dir -d 'Directory to remember over a restart which backends missed writes; or none' -r -f -a "(__fish_complete_directories)"
complete -c magent -n "__fish_magent_needs_command" -s u -l user -d 'User, by name or number, to become once the ports are open' -r -f -a "(__fish_complete_users)"
complete -c magent -n "__fish_magent_needs_command" -s g -l group -d 'Group, by name or number, to become; by default the user\'s own' -r
complete -c magent -n "__fish_magent_needs_command" -l threads -d 'Worker threads [default: one per core, at most 4]' -r
complete -c magent -n "__fish_magent_needs_command" -l pid-file -d 'File to write the process id to; one magent at a time can hold it' -r -F
complete -c magent -n "__fish_magent_needs_command" -l log-file -d 'File to log to; by default syslog in the background' -r -F
complete -c magent -n "__fish_magent_needs_command" -l on-event -d 'Command for sh -c when a backend is down, returned, healed or missed too much' -r -f -a "(__fish_complete_command)"
complete -c magent -n "__fish_magent_needs_command" -l event-webhook -d 'http or https address to post the same events to, as JSON; @FILE holds it' -r -f
complete -c magent -n "__fish_magent_needs_command" -l request-ms -d 'Longest time from a request\'s arrival to its answer' -r
complete -c magent -n "__fish_magent_needs_command" -l fail-ms -d 'A backend that owes an answer and sends no byte for this long, or is not connected to within it, is marked down' -r
complete -c magent -n "__fish_magent_needs_command" -l probe-ms-min -d 'Pause before the first probe of a backend that is down' -r
complete -c magent -n "__fish_magent_needs_command" -l probe-ms-max -d 'Longest pause between two probes of a backend that is down' -r
complete -c magent -n "__fish_magent_needs_command" -l drain-ms -d 'On SIGTERM, longest wait for requests in flight before the process exits' -r
complete -c magent -n "__fish_magent_needs_command" -l max-value -d 'Bytes of one value' -r
complete -c magent -n "__fish_magent_needs_command" -l max-memory -d 'Bytes of requests and answers held by the process, over all workers' -r
complete -c magent -n "__fish_magent_needs_command" -l remember-keys -d 'Keys remembered per absent backend, over all workers' -r
complete -c magent -n "__fish_magent_needs_command" -s n -l max-clients -d 'Client connections, over all workers' -r
complete -c magent -n "__fish_magent_needs_command" -s i -l max-backend-connections -d 'Connections to one backend, over all workers' -r
complete -c magent -n "__fish_magent_needs_command" -s k -l ketama -d 'Short for --scheme ketama/md5'
complete -c magent -n "__fish_magent_needs_command" -l no-flush -d 'Refuse flush_all, which empties every server'
complete -c magent -n "__fish_magent_needs_command" -l read-error -d 'Answer reads with an error if primary and backup are down; else they miss'
complete -c magent -n "__fish_magent_needs_command" -l backend-tls -d 'Speak TLS to all servers, except over unix sockets'
complete -c magent -n "__fish_magent_needs_command" -s D -l foreground -d 'Stay in the foreground and log to standard error'
complete -c magent -n "__fish_magent_needs_command" -s v -l verbose -d 'Log the route of each request, with shortened keys; -vv with whole keys'
complete -c magent -n "__fish_magent_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c magent -n "__fish_magent_needs_command" -s V -l version -d 'Print version'
complete -c magent -n "__fish_magent_needs_command" -f -a "demo" -d 'Run a proxy with five small memcacheds in one process, to try things out'
complete -c magent -n "__fish_magent_needs_command" -f -a "route" -d 'Print the primary and the backup of each key, without asking any server'
complete -c magent -n "__fish_magent_needs_command" -f -a "passwd" -d 'Write the file of users for --auth-file'
complete -c magent -n "__fish_magent_needs_command" -f -a "man" -d 'Print the man page'
complete -c magent -n "__fish_magent_needs_command" -f -a "completions" -d 'Print a script that completes options'
complete -c magent -n "__fish_magent_using_subcommand demo" -s p -l port -d 'TCP port of the proxy, on 127.0.0.1; 0 for any that is free' -r
complete -c magent -n "__fish_magent_using_subcommand demo" -s v -l verbose -d 'Log the route of each request, with shortened keys; -vv with whole keys'
complete -c magent -n "__fish_magent_using_subcommand demo" -s h -l help -d 'Print help'
complete -c magent -n "__fish_magent_using_subcommand route" -s s -l server -d 'Primary: ADDRESS[:PORT], repeated for each' -r -f -a "(__fish_print_hostnames)"
complete -c magent -n "__fish_magent_using_subcommand route" -s b -l backup -d 'Backup: ADDRESS[:PORT], repeated for each' -r -f -a "(__fish_print_hostnames)"
complete -c magent -n "__fish_magent_using_subcommand route" -l scheme -d 'How keys are placed [default: magent]; "list" explains them all' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l hash-tag -d 'twemproxy\'s hash_tag: place keys by what is between X and Y, such as {}' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l hash-seed -d 'memcached proxy\'s seed, for schemes with xxh3' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l hash-filter -d 'memcached proxy\'s filter: stop:STRING or tags:XY' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l lock-with-data -d 'Keep the locks of PHP\'s sessions with their data: php, or one handler' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l backup-placement -d 'apart: a key\'s backup is on another host than its primary; hash: anywhere' -r -f -a "apart\t''
hash\t''"
complete -c magent -n "__fish_magent_using_subcommand route" -s l -l listen -d 'Address to listen on, tls:ADDRESS or unix:PATH; repeat it or use commas' -r -f -a "(__fish_print_hostnames)"
complete -c magent -n "__fish_magent_using_subcommand route" -s p -l port -d 'TCP port to listen on; 0 for none' -r
complete -c magent -n "__fish_magent_using_subcommand route" -s f -l socket -d 'Unix socket to listen on as well, or alone with -p 0' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -s a -l socket-mode -d 'Permissions of the unix socket, in octal' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l proxy-protocol-from -d 'Load balancers whose PROXY header is believed, such as 10.0.0.0/8,192.0.2.1' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l advertise -d 'Proxies that clients with auto discovery are told, this one included' -r -f -a "(__fish_print_hostnames)"
complete -c magent -n "__fish_magent_using_subcommand route" -l advertise-version -d 'Version of that list [default: when this process started]' -r
complete -c magent -n "__fish_magent_using_subcommand route" -s Y -l auth-file -d 'File of users, as "magent passwd" writes it: clients have to log in' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -l backend-auth-file -d 'File with user:password for backends that were started with -Y' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -l tls-cert -d 'Certificate of this proxy, and its chain, for listeners with tls:' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -l tls-key -d 'Its private key, if that is not in the same file' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -l tls-client-ca -d 'Authorities whose certificates clients must have' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -l tls-client-auth -d 'Whether clients need a certificate; required with --tls-client-ca' -r -f -a "none\t''
optional\t''
required\t''"
complete -c magent -n "__fish_magent_using_subcommand route" -l tls-min -d 'Oldest version of TLS that clients may speak' -r -f -a "1.2\t''
1.3\t''"
complete -c magent -n "__fish_magent_using_subcommand route" -l backend-tls-ca -d 'Authorities that servers\' certificates must be of; else those of this machine' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -l backend-tls-cert -d 'Certificate for servers that want one from their clients' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -l backend-tls-key -d 'Its private key, if that is not in the same file' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -l backend-tls-name -d 'Name that servers\' certificates must be for, if not that of -s and -b' -r -f -a "(__fish_print_hostnames)"
complete -c magent -n "__fish_magent_using_subcommand route" -l backend-tls-verify -d 'Whether servers\' certificates are verified' -r -f -a "on\t''
off\t''"
complete -c magent -n "__fish_magent_using_subcommand route" -l hedge-ms -d 'Wait for an answer to a read before the backup is asked too; 0 for never' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l heal-rate -d 'Items, and bytes, a second that are copied to a backend that has returned' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l on-overflow -d 'What becomes of a backend that missed more than can be remembered' -r -f -a "flush\t''
stay-down\t''"
complete -c magent -n "__fish_magent_using_subcommand route" -l state-dir -d 'Directory to remember over a restart which backends missed writes; or none' -r -f -a "(__fish_complete_directories)"
complete -c magent -n "__fish_magent_using_subcommand route" -s u -l user -d 'User, by name or number, to become once the ports are open' -r -f -a "(__fish_complete_users)"
complete -c magent -n "__fish_magent_using_subcommand route" -s g -l group -d 'Group, by name or number, to become; by default the user\'s own' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l threads -d 'Worker threads [default: one per core, at most 4]' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l pid-file -d 'File to write the process id to; one magent at a time can hold it' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -l log-file -d 'File to log to; by default syslog in the background' -r -F
complete -c magent -n "__fish_magent_using_subcommand route" -l on-event -d 'Command for sh -c when a backend is down, returned, healed or missed too much' -r -f -a "(__fish_complete_command)"
complete -c magent -n "__fish_magent_using_subcommand route" -l event-webhook -d 'http or https address to post the same events to, as JSON; @FILE holds it' -r -f
complete -c magent -n "__fish_magent_using_subcommand route" -s n -l max-clients -d 'Client connections, over all workers' -r
complete -c magent -n "__fish_magent_using_subcommand route" -s i -l max-backend-connections -d 'Connections to one backend, over all workers' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l request-ms -d 'Longest time from a request\'s arrival to its answer' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l fail-ms -d 'A backend that owes an answer and sends no byte for this long, or is not connected to within it, is marked down' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l probe-ms-min -d 'Pause before the first probe of a backend that is down' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l probe-ms-max -d 'Longest pause between two probes of a backend that is down' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l drain-ms -d 'On SIGTERM, longest wait for requests in flight before the process exits' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l max-value -d 'Bytes of one value' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l max-memory -d 'Bytes of requests and answers held by the process, over all workers' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l remember-keys -d 'Keys remembered per absent backend, over all workers' -r
complete -c magent -n "__fish_magent_using_subcommand route" -l format -d 'text for people, csv for programs: key,primary_index,backup_index' -r -f -a "text\t''
csv\t''"
complete -c magent -n "__fish_magent_using_subcommand route" -s k -l ketama -d 'Short for --scheme ketama/md5'
complete -c magent -n "__fish_magent_using_subcommand route" -l no-flush -d 'Refuse flush_all, which empties every server'
complete -c magent -n "__fish_magent_using_subcommand route" -l read-error -d 'Answer reads with an error if primary and backup are down; else they miss'
complete -c magent -n "__fish_magent_using_subcommand route" -l backend-tls -d 'Speak TLS to all servers, except over unix sockets'
complete -c magent -n "__fish_magent_using_subcommand route" -s D -l foreground -d 'Stay in the foreground and log to standard error'
complete -c magent -n "__fish_magent_using_subcommand route" -s v -l verbose -d 'Log the route of each request, with shortened keys; -vv with whole keys'
complete -c magent -n "__fish_magent_using_subcommand route" -l summary -d 'Print the share of each server instead, as numbers and bars'
complete -c magent -n "__fish_magent_using_subcommand route" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c magent -n "__fish_magent_using_subcommand passwd" -l prefix -d 'What all keys of this user begin with on the servers, unseen by the user' -r
complete -c magent -n "__fish_magent_using_subcommand passwd" -l read-only -d 'The user may read and nothing else'
complete -c magent -n "__fish_magent_using_subcommand passwd" -l delete -d 'Take the user out of the file'
complete -c magent -n "__fish_magent_using_subcommand passwd" -l list -d 'Print the users and what they may do'
complete -c magent -n "__fish_magent_using_subcommand passwd" -s h -l help -d 'Print help'
complete -c magent -n "__fish_magent_using_subcommand man" -s h -l help -d 'Print help'
complete -c magent -n "__fish_magent_using_subcommand completions" -s h -l help -d 'Print help'
