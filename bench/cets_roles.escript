#!/usr/bin/env escript
%%! +S 2
%% CETS on three Erlang nodes of this machine; prints its figures as one JSON object.
%% escript cets_roles.escript EBIN_DIR INSERTS JOIN_ROWS BIG_ROWS (0: none)
-mode(compile).

-define(WINDOW, 1000).
-define(BATCH, 1000).
-define(KEYS, 10000).
-define(ROUNDS, 100).

main([Ebin | Numbers]) ->
    [Inserts, JoinRows, BigRows] = [list_to_integer(N) || N <- Numbers],
    logger:set_primary_config(level, error),
    _ = os:cmd("epmd -daemon"),  % which erl -sname would start as well
    {ok, _} = net_kernel:start([cets_bench, shortnames]),
    true = code:add_patha(Ebin),
    Nodes = [node() | [start_node(Ebin) || _ <- [1, 2]]],
    [Mine | Theirs] = [start_table(Node, sessions) || Node <- Nodes],
    [ok = cets_join:join(lock, #{}, Mine, Pid) || Pid <- Theirs],
    Lookups = lookups(sessions),
    Pipelined = Inserts / seconds(fun() -> pipelined(sessions, Inserts) end),
    Many = Inserts / seconds(fun() -> insert_all(sessions, Inserts) end),
    Small = join_seconds(Nodes, small, JoinRows),
    Big = join_seconds(Nodes, big, BigRows),
    io:format("{\"reads\": ~.1f, \"inserts\": ~.1f, \"many\": ~.1f, \"join\": ~.4f, \"big\": ~.4f}~n",
              [Lookups, Pipelined, Many, Small, Big]).

start_node(Ebin) ->
    {ok, _, Node} = peer:start_link(#{name => peer:random_name(), args => ["-pa", Ebin, "+S", "2"]}),
    rpc:call(Node, logger, set_primary_config, [level, error]),
    Node.

start_table(Node, Name) ->
    {ok, Pid} = rpc:call(Node, cets, start, [Name, #{}]),
    Pid.

key(N) -> <<"user:", (integer_to_binary(N))/binary>>.
row(N) -> {key(N), iolist_to_binary(io_lib:format("node-1/~b session-~10..0b", [N rem 4, N]))}.

seconds(Work) ->
    {Microseconds, _} = timer:tc(Work),
    max(1, Microseconds) / 1.0e6.

lookups(Table) ->
    Keys = [key(N) || N <- lists:seq(1, ?KEYS)],
    ok = cets:insert_many(Table, [row(N) || N <- lists:seq(1, ?KEYS)]),
    Round = fun(_) -> lists:foreach(fun(Key) -> ets:lookup(Table, Key) end, Keys) end,
    ?KEYS * ?ROUNDS / seconds(fun() -> lists:foreach(Round, lists:seq(1, ?ROUNDS)) end).

%% WINDOW inserts in flight; each is answered when both other nodes have it.
pipelined(Table, Count) ->
    First = min(?WINDOW, Count),
    Sent = [cets:insert_request(Table, row(N)) || N <- lists:seq(1, First)],
    slide(Table, queue:from_list(Sent), First, Count).

slide(Table, Waiting, Sent, Count) ->
    case queue:out(Waiting) of
        {empty, _} ->
            ok;
        {{value, Oldest}, Rest} ->
            {reply, ok} = cets:wait_response(Oldest, 60000),
            case Sent < Count of
                true ->
                    Next = cets:insert_request(Table, row(Sent + 1)),
                    slide(Table, queue:in(Next, Rest), Sent + 1, Count);
                false ->
                    slide(Table, Rest, Sent, Count)
            end
    end.

insert_all(Server, Count) ->
    [ok = cets:insert_many(Server, [row(N) || N <- lists:seq(From, min(Count, From + ?BATCH - 1))])
     || From <- lists:seq(1, Count, ?BATCH)].

join_seconds(_, _, 0) ->
    0.0;
join_seconds([Here, There | _], Name, Rows) ->
    Mine = start_table(Here, Name),
    Theirs = start_table(There, Name),
    insert_all(Mine, Rows),
    seconds(fun() -> ok = cets_join:join(lock, #{}, Mine, Theirs) end).
